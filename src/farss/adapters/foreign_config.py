"""What the configuration of an adapter may say, checked before PEFT obeys it.

PEFT takes the file at its word: it imports the module that `megatron_core` names, makes factors of whatever rank it
says, and matches its patterns with no limit of time.
"""

from __future__ import annotations

import enum
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from torch import Tensor, nn

from farss.errors import AdapterError
from farss.patterns import check_valid, full_matches, repeats
from farss.reading import Document

CONFIGURATION = Document("adapter's configuration", AdapterError)
LARGEST = 2**31 - 1
MOST_ROUNDS, MOST_LAYERS = 1_000, 1_000
OF_MEGATRON = "megatron.core"
NEVER_NULL = ("r", "lora_alpha", "target_r", "init_r")
REAL = ("lora_alpha", "alpha")
"""Settings that PEFT declares as integers and only divides by: a float is as good."""


def check_config(config: Mapping[str, Any], folder: Path) -> None:
    """Check a configuration by what PEFT declares for its kind of adapter.

    Keys that PEFT does not know, those of its later versions, are left to it: it warns and ignores them.

    Raises:
        AdapterError: for a kind of adapter that PEFT does not have, or naming the setting that has another type than
            declared, a number out of all bounds, or that would have code imported.
    """
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    kinds = {str(kind.value): made for kind, made in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if not isinstance(config.get("peft_type"), str) or config["peft_type"] not in kinds:
        raise AdapterError("PEFT has no such kind of adapter", where=folder, got=repr(config.get("peft_type")))
    hints = typing.get_type_hints(kinds[config["peft_type"]])
    for key, value in config.items():
        real = float if key in REAL and hints.get(key) is int else hints.get(key, Any)
        if not ((value is None and key not in NEVER_NULL) or _fits(value, real)):
            raise _wrong(folder, key, value, getattr(real, "__name__", str(real)))
        if not _bounded(value):
            raise _wrong(folder, key, value, f"finite numbers, none beyond {LARGEST:,}")
    _check_ranks(config, folder)
    _check_start(config, folder)
    _check_imports(config, folder)


def check_sizes(config: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Check that no rank is larger than every dimension of the adapter's tensors: PEFT makes room for it first.

    Raises:
        AdapterError: if one is.
    """
    largest = max((size for tensor in tensors.values() for size in tensor.shape), default=0)
    for rank in _ranks(config):
        if rank > largest:
            raise AdapterError(
                "the adapter's weights do not match its configuration",
                where=folder,
                expected=f"rank {rank}",
                got=f"tensors of at most {largest}",
            )


def check_patterns(config: Mapping[str, Any], model: nn.Module, folder: Path) -> None:
    """Try the configuration's regular expressions on the modules of `model`, as PEFT is going to match them.

    Raises:
        AdapterError: if one is not valid, or takes too long.
    """
    found = list(_patterns(config))
    for pattern in found:
        check_valid(pattern.inner, error=AdapterError, where=folder)
    tried = [pattern for pattern in found if repeats(pattern.inner)]
    if tried:
        names = [name for name, _ in model.named_modules()]
        full_matches([pattern.whole for pattern in tried], names, error=AdapterError, where=folder)


class _Pattern(typing.NamedTuple):
    """A regular expression of a configuration, and what PEFT makes of it."""

    inner: str
    whole: str


def _patterns(config: Mapping[str, Any]) -> Iterable[_Pattern]:
    for key, value in config.items():
        if key in ("target_modules", "exclude_modules", "feedforward_modules") and isinstance(value, str):
            yield _Pattern(value, value)
        elif key == "layers_pattern":
            for part in [value] if isinstance(value, str) else value or ():
                yield _Pattern(part, rf"(?:^|.*?\.){part}\.(?P<idx>\d+)\..*")
        elif key.endswith("_pattern") and isinstance(value, dict):
            yield from (_Pattern(part, rf"(.*\.)?({part})$") for part in value)
        elif key == "modules_to_save":
            yield from (_Pattern(part, rf"(^|.*\.){part}($|\..*)") for part in value or ())


def _ranks(config: Mapping[str, Any]) -> list[int]:
    pattern = config.get("rank_pattern") or {}
    listed = [rank for rank in pattern.values() if not isinstance(rank, list)]  # AdaLoRA keeps masks there
    blocks = config.get("peft_type") == "OFT" and config.get("oft_block_size")  # the size of a block, in place of r = 0
    return [rank for rank in [None if blocks else config.get("r"), *listed] if rank is not None]


def _check_ranks(config: Mapping[str, Any], folder: Path) -> None:
    for rank in _ranks(config):
        if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
            raise _wrong(folder, "r, rank_pattern", rank, "whole numbers from 1 on")
    for alpha in (config.get("alpha_pattern") or {}).values():
        if not _fits(alpha, float):
            raise _wrong(folder, "alpha_pattern", alpha, "numbers")
    dropout = config.get("lora_dropout")
    if dropout is not None and not 0 <= dropout <= 1:
        raise _wrong(folder, "lora_dropout", dropout, "0 to 1")


def _check_start(config: Mapping[str, Any], folder: Path) -> None:
    """What PEFT would compute before it reads the tensors: rounds of a decomposition, copies of layers."""
    start = config.get("init_lora_weights")
    rounds = re.fullmatch(r"pissa_niter_(\d+)", start) if isinstance(start, str) else None
    if rounds and int(rounds[1]) > MOST_ROUNDS:
        raise _wrong(folder, "init_lora_weights", start, f"at most {MOST_ROUNDS} rounds")
    copies = config.get("layer_replication") or []
    fits = all(len(pair) == 2 and 0 <= pair[0] < pair[1] for pair in copies)
    if not fits or sum(stop - first for first, stop in copies) > MOST_LAYERS:
        raise _wrong(folder, "layer_replication", copies, f"pairs of layers, at most {MOST_LAYERS} in all")


def _check_imports(config: Mapping[str, Any], folder: Path) -> None:
    if config.get("megatron_config") or config.get("megatron_core") not in (None, OF_MEGATRON):
        raise AdapterError(
            "the adapter names a module that would be imported",
            where=f"{folder}: megatron_core",
            expected="no layers of Megatron",
            got=config.get("megatron_core"),
            do="remove megatron_config and megatron_core, if the adapter is an ordinary one",
        )


def _wrong(folder: Path, key: str, value: object, expected: str) -> AdapterError:
    return AdapterError(
        "the adapter's configuration has an impossible setting",
        where=f"{folder}: {key}",
        expected=expected,
        got=f"{value!r} ({type(value).__name__})",
    )


def _fits(value: object, hint: Any) -> bool:
    """Whether a JSON value is of a declared type; dataclasses of PEFT come as mappings."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in args)
    if origin is Literal:  # PEFT allows more than it lists, `pissa_niter_16` for one, and names what it does not
        return isinstance(value, str)
    if origin in (list, tuple):
        return isinstance(value, list) and all(_fits(part, args[0]) for part in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(part, args[1]) for part in value.values())
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return value in [member.value for member in hint]
    if hint in (bool, int, str, dict, list, type(None)):
        return type(value) is hint
    return isinstance(value, dict)


def _bounded(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return abs(value) <= LARGEST
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return all(map(_bounded, parts))
