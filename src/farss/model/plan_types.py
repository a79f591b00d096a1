"""The types and bounds of an edited plan, before anything is computed from it."""

from __future__ import annotations

import math
import types
import typing
from typing import Any, Literal, Union, get_args, get_origin

from farss.errors import PlanError
from farss.reading import Document

PLAN = Document("plan", PlanError, most_bytes=256 << 20, missing="make one with `farss init`")
LARGEST = 2**53
"""Of any number: what every program that reads JSON keeps exactly."""


def check_plan_types(mapping: dict[str, Any], plan: type, target: type, where: object) -> None:
    """Check every value of a plan against the declared type of its field; unknown keys are left to the caller.

    Args:
        mapping: the content of a plan file.
        plan: the class whose fields the keys are.
        target: the class of each entry of `targets`.
        where: for messages.

    Raises:
        PlanError: naming the key.
    """
    _check(mapping, typing.get_type_hints(plan), {"targets": Any, "start": Any}, where)
    rows = mapping.get("targets")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise PlanError("the targets of a plan are a list of objects", where=where, got=type(rows).__name__)
    hints = typing.get_type_hints(target)
    for number, row in enumerate(rows):
        _check(row, hints, {}, f"{where}: targets[{number}]")


def _check(row: dict[str, Any], hints: dict[str, Any], others: dict[str, Any], where: object) -> None:
    for key, value in row.items():
        hint = others.get(key, hints.get(key, Any))
        if not _fits(value, hint):
            raise PlanError(
                "the plan has an impossible value",
                where=f"{where}: {key}",
                expected=getattr(hint, "__name__", str(hint)),
                got=f"{value!r} ({type(value).__name__})",
            )


def _fits(value: object, hint: Any) -> bool:
    """Whether a JSON value is of a declared type, and every number in it is finite and no larger than `LARGEST`."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in args)
    if origin is Literal:
        return isinstance(value, str) and value in args
    if origin is tuple:
        parts = [args[0]] * len(value) if args[-1] is Ellipsis and isinstance(value, list) else list(args)
        return isinstance(value, list) and len(value) == len(parts) and all(map(_fits, value, parts))
    if origin is dict or hint is dict:
        inner = args[1] if args else Any
        return isinstance(value, dict) and all(_fits(part, inner) for part in value.values())
    if isinstance(value, bool):
        return hint in (bool, Any)
    if isinstance(value, (int, float)):
        whole = hint in (int, float, Any) if isinstance(value, int) else hint in (float, Any)
        return whole and math.isfinite(value) and abs(value) <= LARGEST
    return hint is Any or type(value) is hint
