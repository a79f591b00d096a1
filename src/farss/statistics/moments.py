"""Second moments as sums and counts: what the data pass keeps, saves, merges, and gives to the scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from farss.errors import DataError, NumericalError, StorageError
from farss.model.calibration import Batch
from farss.model.targets import Target, weight_matrix
from farss.reading import loads
from farss.statistics.summed import Summed
from farss.storage import read_tensors, write_tensors

LARGEST = 2**53
STRIPS = 4
"""Row strips of a symmetric product: of 16 blocks the 6 below the diagonal are neither computed nor stored."""

MIN_STRIP = 96
"""Strips narrower than this cost more in small products than they save."""


class SymmetricSum:
    """A running sum of `X' X`, upper blocks only.

    Args:
        k: number of columns of every X.
        dtype: float32 or float64, of the sum and of every product.
        device: where the sum lives.
    """

    def __init__(self, k: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        self.k = k
        count = max(1, min(STRIPS, k // MIN_STRIP))
        edges = [round(i * k / count) for i in range(count + 1)]
        self.bounds = list(pairwise(edges))
        size = sum((stop - start) * (k - start) for start, stop in self.bounds)
        self.packed = torch.zeros(size, dtype=dtype, device=device)

    def _strips(self) -> list[Tensor]:
        widths = [(stop - start, self.k - start) for start, stop in self.bounds]
        parts = self.packed.split([rows * columns for rows, columns in widths])
        return [part.view(shape) for part, shape in zip(parts, widths, strict=True)]

    def add(self, x: Tensor) -> None:
        """Add `x' x`; x: [t, k], promoted to the dtype of the sum before anything is multiplied."""
        if x.dtype != self.packed.dtype:
            x = x.to(self.packed.dtype)
        for (start, stop), strip in zip(self.bounds, self._strips(), strict=True):
            strip.addmm_(x[:, start:stop].t(), x[:, start:])

    def diagonal(self) -> Tensor:
        """The sums of squares, [k], in the dtype of the sum."""
        return torch.cat([strip.diagonal() for strip in self._strips()])

    def dense(self) -> Tensor:
        """The whole sum, [k, k] float64, exactly symmetric, on the device of the sum."""
        full = torch.zeros(self.k, self.k, dtype=torch.float64, device=self.packed.device)
        for (start, stop), strip in zip(self.bounds, self._strips(), strict=True):
            full[start:stop, start:] = strip
        upper = full.triu_()
        return upper + upper.triu(1).t()


@dataclass
class Moments(Summed):
    """Sums of outer products over token positions, and the number of positions. They add up over any partition.

    Attributes:
        sums: "kind/module name" -> sum.
        inputs: module name -> the module whose "h", the sum over inputs, is its own.
        shapes: module name -> (m, n).
        settings: how rows were chosen and weighted; only equal settings can be merged.
        tokens: positions counted in every sum.
        supervised: positions with a loss.
        sequences: sequences seen.
    """

    COUNTS: ClassVar[tuple[str, ...]] = ("tokens", "supervised", "sequences")
    FORMAT: ClassVar[str]
    HEAD: ClassVar[str]

    sums: dict[str, SymmetricSum]
    inputs: dict[str, str]
    shapes: dict[str, tuple[int, int]]
    settings: dict[str, Any] = field(default_factory=dict)
    tokens: int = 0
    supervised: int = 0
    sequences: int = 0

    def parts(self) -> dict[str, Tensor]:
        """The packed sums by "kind/module name"."""
        return {key: total.packed for key, total in self.sums.items()}

    def identity(self) -> Any:
        """Modules, which of them share inputs, and how rows were chosen and weighted."""
        return self.shapes, self.inputs, self.settings

    def count(self, rows: int, batch: Batch) -> None:
        """Add `rows` counted positions of one batch, with its supervised positions and its sequences."""
        self.tokens += rows
        self.supervised += int(batch.supervised.sum())
        self.sequences += batch.input_ids.shape[0]

    def _mean(self, key: str) -> Tensor:
        return self.sums[key].dense().div_(max(self.tokens, 1))

    def save(self, path: str | Path, notes: Mapping[str, str] | None = None) -> None:
        """Write sums, counts and settings as one safetensors file.

        Args:
            path: the file.
            notes: further metadata, given back by `notes_of`.

        Raises:
            StorageError: if the file cannot be written.
        """
        head = {name: getattr(self, name) for name in ("inputs", "settings", "tokens", "supervised", "sequences")}
        head |= {"format": self.FORMAT, "shapes": {name: list(shape) for name, shape in self.shapes.items()}}
        head |= {"columns": {key: s.k for key, s in self.sums.items()}}
        tensors = {key: s.packed for key, s in self.sums.items()}
        write_tensors(path, tensors, {**(notes or {}), self.HEAD: json.dumps(head)})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote, on the CPU.

        Raises:
            StorageError: if the file is missing, damaged, or holds something else.
        """
        tensors, metadata = read_tensors(path)
        head = _head(metadata, cls.HEAD)
        if head.get("format") != cls.FORMAT or set(head.get("columns", ())) != set(tensors):
            raise StorageError(f"the file holds no {cls.HEAD} of this version", where=path, expected=cls.FORMAT)
        _check_head(head, path)
        sums = {key: _restored(packed, head["columns"][key], f"{path}: {key}") for key, packed in tensors.items()}
        shapes = {name: (m, n) for name, (m, n) in head["shapes"].items()}
        counts = head["tokens"], head["supervised"], head["sequences"]
        return cls(sums, head["inputs"], shapes, head["settings"], *counts)


@dataclass
class Curvature(Moments):
    """Sums of outer products over token positions for every target, on its smaller side, and the number of positions.

    With input rows h, output gradients delta, `Wh` (bias left out) and g = W' delta, the kinds of sum are "h", "delta",
    "y" and "g". Modules that read the same input share one "h".
    """

    FORMAT = "farss-curvature-1"
    HEAD = "curvature"

    def pair(self, target: Target | str, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The two mean second moments that score the directions of one module.

        Args:
            target: the module, or its name.
            weight: [m, n]; needed with a name, read from the module otherwise.

        Returns:
            (first, second), [k, k] float64 on the weight's device: (S_h, S_g) if m >= n, else (S_y, S_delta), where
            S_g = W' S_delta W and S_y = W S_h W'.

        Raises:
            DataError: if the module was not observed.
            NumericalError: if a moment is not finite.
        """
        if isinstance(target, Target):
            weight = weight_matrix(target) if weight is None else weight
            target = target.name
        if target not in self.shapes or weight is None or tuple(weight.shape) != self.shapes[target]:
            got = None if weight is None else tuple(weight.shape)
            raise DataError("no moments for this module", where=target, expected=self.shapes.get(target), got=got)
        (m, n), own = self.shapes[target], self.inputs[target]
        if m > n:
            pair = self._mean(f"h/{own}"), self._mean(f"g/{target}")
        elif m == n:
            pair = self._mean(f"h/{own}"), _congruence(weight.t(), self._mean(f"delta/{target}"))
        elif f"y/{target}" in self.sums:
            pair = self._mean(f"y/{target}"), self._mean(f"delta/{target}")
        else:
            pair = _congruence(weight, self._mean(f"h/{own}")), self._mean(f"delta/{target}")
        if not all(bool(torch.isfinite(moment).all()) for moment in pair):
            raise NumericalError("a second moment is not finite", where=target, do="run the model in float32")
        return pair[0].to(weight.device), pair[1].to(weight.device)

    def of(self, name: str) -> Curvature:
        """A copy of the sums that score one module, and of the counts."""
        own = {f"h/{self.inputs[name]}", *(f"{kind}/{name}" for kind in ("delta", "y", "g"))}
        sums = {}
        for key in sorted(own & set(self.sums)):
            k, packed = self.sums[key].k, self.sums[key].packed
            sums[key] = SymmetricSum(k, packed.dtype, packed.device)
            sums[key].packed.copy_(packed)
        inputs, shapes = {name: self.inputs[name]}, {name: self.shapes[name]}
        return Curvature(sums, inputs, shapes, self.settings, self.tokens, self.supervised, self.sequences)

    def input_moment(self, name: str) -> Tensor | None:
        """S_h of the hidden states that a module reads, [n, n] float64; None where only S_y was kept."""
        key = f"h/{self.inputs[name]}"
        return self._mean(key) if key in self.sums else None


def _head(metadata: Mapping[str, str], name: str) -> dict[str, Any]:
    try:
        head = loads(metadata.get(name, "{}"))
    except ValueError:  # no JSON, or none that is read
        return {}
    return head if isinstance(head, dict) else {}


def _check_head(head: Mapping[str, Any], path: str | Path) -> None:
    """Check the types of everything in the metadata of a file of moments.

    Raises:
        StorageError: naming the entry that is missing or of another type.
    """
    mappings = {name: head.get(name) for name in ("columns", "inputs", "shapes", "settings")}
    counts = [head.get(name) for name in ("tokens", "supervised", "sequences")]
    pairs = mappings["shapes"].values() if isinstance(mappings["shapes"], dict) else [None]
    columns = mappings["columns"].values() if isinstance(mappings["columns"], dict) else [None]
    good = {
        "metadata": all(isinstance(mapping, dict) for mapping in mappings.values()),
        "shapes": all(isinstance(pair, list) and len(pair) == 2 and all(map(_is_size, pair)) for pair in pairs),
        "columns": all(map(_is_size, columns)),
        "counts": all(isinstance(count, int) and 0 <= count < LARGEST for count in counts),
    }
    wrong = [name for name, fits in good.items() if not fits]
    if wrong:
        raise StorageError("the file's metadata are damaged", where=path, got=", ".join(wrong))


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < LARGEST


def _restored(packed: Tensor, k: int, where: str) -> SymmetricSum:
    """A sum read from a file.

    Raises:
        StorageError: if it is not of `k` columns, not finite, or no sum of squares.
    """
    if packed.ndim != 1 or not packed.is_floating_point() or not k * (k + 1) // 2 <= packed.numel() <= k * k:
        raise StorageError("a moment has the wrong size", where=where, got=tuple(packed.shape))
    found = SymmetricSum(k, packed.dtype)
    if found.packed.shape != packed.shape:
        raise StorageError("a moment has the wrong size", where=where, got=tuple(packed.shape))
    found.packed = packed
    diagonal = found.diagonal()
    if not bool(torch.isfinite(packed).all()) or bool((diagonal < 0).any()):
        raise StorageError("a second moment is no sum of squares", where=where, got=f"least {float(diagonal.min()):g}")
    return found


def _congruence(a: Tensor, moment: Tensor) -> Tensor:
    """`a moment a'` in float64, symmetrised; a: [k, j], moment: [j, j]."""
    a = a.to(device=moment.device, dtype=torch.float64)
    product = a @ moment @ a.t()
    return (product + product.t()) / 2
