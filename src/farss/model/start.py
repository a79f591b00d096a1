"""The factors an adapter starts from, and their file beside a plan."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from farss.errors import PlanError, StorageError
from farss.model.fingerprints import weight_hash
from farss.storage import read_tensors, write_tensors

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Factors:
    """One low-rank product.

    Attributes:
        up: [m, r], B.
        down: [r, n], A.
    """

    up: Tensor
    down: Tensor


def adapter_dtype(weight: Tensor) -> torch.dtype:
    """The dtype adapters are kept in: float32, or float64 where the weight itself is float64."""
    return torch.promote_types(torch.float32, weight.dtype) if weight.is_floating_point() else torch.float32


def factors_digest(start: Mapping[str, Factors]) -> str:
    """sha256 over the names, dtypes, shapes and bytes of all factors, in order of their names, as 64 digits."""
    digest = hashlib.sha256()
    for name in sorted(start):
        digest.update(f"{name} {weight_hash(start[name].up)} {weight_hash(start[name].down)}\n".encode())
    return digest.hexdigest()


def factors_path(plan: str | Path) -> Path:
    """Where the factors of a plan file are: beside it, under its name, as safetensors."""
    return Path(plan).with_suffix(SUFFIX)


def write_start(path: str | Path, start: Mapping[str, Factors]) -> None:
    """Write factors as `NAME.up` and `NAME.down`.

    Raises:
        StorageError: if the file cannot be written.
    """
    tensors = {f"{name}.up": part.up for name, part in start.items()}
    write_tensors(path, tensors | {f"{name}.down": part.down for name, part in start.items()})


def read_start(path: str | Path) -> dict[str, Factors]:
    """The factors `write_start` wrote, on the CPU.

    Raises:
        PlanError: if the file is missing, damaged, or holds something else.
    """
    try:
        tensors, _ = read_tensors(path)
    except StorageError as error:
        raise PlanError(
            "the factors of the plan cannot be read",
            where=path,
            got=error.got,
            do="keep the file with the factors beside the plan, under its name",
        ) from error
    names = [key.removesuffix(".up") for key in tensors if key.endswith(".up")]
    if set(tensors) != {f"{name}.{side}" for name in names for side in ("up", "down")}:
        raise PlanError("the file holds no start factors", where=path, got=", ".join(sorted(tensors)[:3]))
    return {name: Factors(tensors[f"{name}.up"], tensors[f"{name}.down"]) for name in names}
