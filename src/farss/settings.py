"""Trees of settings: reading, checking every leaf's type, overriding by dotted keys, writing back, JSON schema."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import math
import types
import typing
from collections.abc import Collection
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin

from farss.errors import ConfigError, did_you_mean
from farss.printable import shortened
from farss.reading import encodable

LARGEST = 2**63 - 1
LONGEST_TEXT = 4096
"""Characters of one setting: more than the longest path that systems take."""

SHOWN_CHARACTERS = 80
"""Of a value, in a message that says what differs."""


class Settings:
    """Base of every node of the recipe tree: reading, checking, overriding and writing.

    `REFUSED` are names that people try, each with how it is said here or why it is not taken.
    """

    REFUSED: ClassVar[dict[str, str]] = {}

    @classmethod
    def from_mapping(cls, mapping: object, where: str = "recipe") -> Self:
        """The node described by `mapping`, every key known and every value of its declared type.

        Raises:
            ConfigError: naming the key, and the nearest known one if the key is unknown.
        """
        if not isinstance(mapping, dict):
            raise ConfigError("settings must be a mapping", where=where, expected="key: value pairs", got=repr(mapping))
        values = {}
        for key, value in mapping.items():
            kind = cls.kind_of(key)
            if kind is None:
                raise _unknown_key(key, where, cls)
            values[key] = _coerce(value, kind, f"{where}.{key}")
        return cls.of_parts(values)

    @classmethod
    def kind_of(cls, key: object) -> Any:
        """The type of the part `key`; None where there is no such part."""
        return _hints(cls).get(key)

    @classmethod
    def names(cls) -> list[str]:
        """The names of all parts."""
        return list(_hints(cls))

    @classmethod
    def of_parts(cls, parts: dict[str, Any]) -> Self:
        """The node of parts that have their types."""
        return cls(**parts)

    def parts(self, *, whole: bool = True) -> dict[str, Any]:
        """The parts by name; those that stand at their defaults may be missing unless `whole`."""
        return {name: getattr(self, name) for name in _hints(type(self))}

    def to_mapping(self, *, whole: bool = True) -> dict[str, Any]:
        """The node as plain dictionaries, lists and scalars; `from_mapping` reads it back equal."""
        return {name: _plain(value, whole) for name, value in self.parts(whole=whole).items()}

    def override(self, assignments: dict[str, Any]) -> Self:
        """A copy with dotted keys replaced, for example `{"train.learning_rate": 1e-3}`.

        Raises:
            ConfigError: for an unknown key or a value of the wrong type.
        """
        tree = self.to_mapping(whole=False)
        for dotted, value in assignments.items():
            *path, last = dotted.split(".")
            node, kind = tree, type(self)
            for key in path:
                node, kind = _part_of(node, kind, key, dotted)
            if last not in node and _kind_in(kind, last) is None:
                raise _unknown_key(last, dotted, kind, node)
            node[last] = value
        return type(self).from_mapping(tree)

    @classmethod
    def schema(cls) -> dict[str, Any]:
        """The JSON schema (draft 2020-12) of this node."""
        return _schema(cls)


def _part_of(node: dict[str, Any], kind: Any, key: str, dotted: str) -> tuple[dict[str, Any], Any]:
    """The mapping in `node` that a dotted key goes through, and its type."""
    inner = _kind_in(kind, key)
    if key not in node:
        if not _is_node(inner):
            raise _unknown_key(key, dotted, kind, node)
        node[key] = {}
    if not isinstance(node[key], dict):
        raise ConfigError("a dotted key goes through a setting that has no parts", where=dotted)
    return node[key], inner


def _kind_in(kind: Any, key: str) -> Any:
    """The type of a part of a node or of a mapping with the user's own names; None where there is no such part."""
    if _is_node(kind):
        return kind.kind_of(key)
    return get_args(kind)[1] if get_origin(kind) is dict else None


def _is_node(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Settings)


def _unknown_key(key: object, where: str, kind: Any, beside: Collection[str] = ()) -> ConfigError:
    refused = getattr(kind, "REFUSED", {}).get(key) if isinstance(key, str) else None
    if refused is not None:
        return ConfigError(f"`{key}` is not a setting here", where=where, do=refused)
    key, known = shortened(key), kind.names() if _is_node(kind) else beside
    hint = did_you_mean(key, known) or f"known keys: {', '.join(known)}"
    return ConfigError(f"unknown key `{key}`", where=where, do=hint)


@functools.cache
def _hints(kind: type[Settings]) -> dict[Any, Any]:
    """The types of a node's fields."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}  # type: ignore[arg-type]


def _plain(value: object, whole: bool) -> Any:
    if isinstance(value, Settings):
        return value.to_mapping(whole=whole)
    if isinstance(value, (tuple, list)):
        return [_plain(v, whole) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v, whole) for k, v in value.items()}
    return value


def _coerce(value: object, hint: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        inner = [a for a in args if a is not type(None)]
        return _coerce(value, inner[0], where) if len(inner) == 1 else _coerce_beside_words(value, inner, where)
    if origin is Literal:
        if value not in args:
            raise ConfigError(
                "value is not one of the named choices",
                where=where,
                expected=" | ".join(map(str, args)),
                got=repr(value),
                do=did_you_mean(value, map(str, args)),
            )
        return value
    if origin is tuple:
        if isinstance(value, (str, bytes)) or not isinstance(value, (list, tuple)):
            raise ConfigError("a list is needed", where=where, expected="[...]", got=repr(value))
        return tuple(_coerce(v, args[0], f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError("a mapping is needed", where=where, expected="{name: value}", got=repr(value))
        return {_coerce(k, args[0], where): _coerce(v, args[1], f"{where}.{k}") for k, v in value.items()}
    if isinstance(hint, type) and issubclass(hint, Settings):
        return value if isinstance(value, hint) else hint.from_mapping(value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if hint is str and isinstance(value, datetime.date):  # YAML reads `2026-07-01` as a date
        return value.isoformat()
    if hint is float and isinstance(value, str):  # YAML reads `2e-5` as a string
        with contextlib.suppress(ValueError):
            value = float(value)
    if hint is Any or (type(value) is hint):
        return _within_bounds(value, where)
    name = getattr(hint, "__name__", str(hint))
    raise ConfigError("wrong type", where=where, expected=name, got=f"{value!r} ({type(value).__name__})")


def _within_bounds(value: Any, where: str) -> Any:
    """A leaf that what comes later can hold: no NaN, no integer beyond 64 bits, no text that can name nothing."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError("a number must be finite", where=where, got=value)
    if isinstance(value, int) and abs(value) > LARGEST:
        raise ConfigError("a number is too large", where=where, expected=f"at most {LARGEST}", got=value)
    if isinstance(value, str) and (len(value) > LONGEST_TEXT or "\0" in value or not encodable(value)):
        raise ConfigError(
            "a text can name nothing",
            where=where,
            expected=f"at most {LONGEST_TEXT} characters, without NUL or half characters",
            got=repr(value),
        )
    return value


def _coerce_beside_words(value: object, hints: list[Any], where: str) -> Any:
    """A value of a setting that is of one type, or one of a few words instead."""
    words = [word for hint in hints if get_origin(hint) is Literal for word in get_args(hint)]
    (kind,) = (hint for hint in hints if get_origin(hint) is not Literal)
    if value in words:
        return value
    if isinstance(value, str):
        raise ConfigError(
            "wrong type", where=where, expected=" | ".join([kind.__name__, *words]), got=f"{value!r} (str)"
        )
    return _coerce(value, kind, where)


def _schema(hint: Any) -> dict[str, Any]:
    origin, args = get_origin(hint), get_args(hint)
    if _is_node(hint):
        properties = {name: _schema(kind) for name in hint.names() if (kind := hint.kind_of(name)) is not None}
        return {"type": "object", "additionalProperties": False, "properties": properties}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(a) for a in args]}
    if origin is Literal:
        return {"enum": list(args)}
    if origin is tuple:
        return {"type": "array", "items": _schema(args[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(args[1])}
    return {
        str: {"type": "string"},
        int: {"type": "integer"},
        float: {"type": "number"},
        bool: {"type": "boolean"},
        type(None): {"type": "null"},
    }.get(hint, {})


def require(condition: bool, what: str, **details: object) -> None:
    """Raise a ConfigError that says `what`, unless the condition holds."""
    if not condition:
        raise ConfigError(what, **details)  # type: ignore[arg-type]


def differences(before: Any, after: Any, where: str = "") -> list[str]:
    """What changed between two trees of settings, as `key: old -> new` with dotted keys, in the order of the keys."""
    if not (isinstance(before, dict) and isinstance(after, dict)):
        plain = before if not isinstance(before, tuple) else list(before)
        return [] if plain == after else [f"{where}: {_short(before)} -> {_short(after)}"]
    found: list[str] = []
    for key in [*before, *(key for key in after if key not in before)]:
        inner = f"{where}.{key}" if where else str(key)
        found += differences(before.get(key), after.get(key), inner)
    return found


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
