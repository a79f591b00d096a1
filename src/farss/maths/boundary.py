"""Where a sequence of values, one per layer, falls best into two contiguous groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from farss.errors import NumericalError


@dataclass(frozen=True)
class Split:
    """A sequence cut in two.

    Attributes:
        count: length of the first group.
        gain: share of the values' variance that two means explain and one does not, 0 to 1. Any slow trend gives a
            large gain, so it compares cuts of one sequence and proves none.
        first: mean of the first group.
        second: mean of the second group.
    """

    count: int
    gain: float
    first: float
    second: float


def split_at(values: Sequence[float], count: int) -> Split:
    """The cut after `count` values.

    Args:
        values: [L], one per layer in order, for example log importances.
        count: 1 to L - 1.

    Raises:
        NumericalError: if a value is not finite, or one of the groups is empty.
    """
    line = np.asarray(values, dtype=np.float64)
    if not np.isfinite(line).all():
        raise NumericalError("a value is NaN or infinite", got=line.tolist())
    if not 0 < count < line.size:
        raise NumericalError("a cut needs a value on both sides", expected=f"1 to {line.size - 1}", got=count)
    first, second = line[:count], line[count:]
    total = float(((line - line.mean()) ** 2).sum())
    left = float(((first - first.mean()) ** 2).sum() + ((second - second.mean()) ** 2).sum())
    gain = 1 - left / total if total > 0 else 0.0
    return Split(count, min(max(gain, 0.0), 1.0), float(first.mean()), float(second.mean()))


def best_split(values: Sequence[float]) -> Split | None:
    """The cut with the largest gain (least squares), the earliest of equals; None for fewer than two values.

    Args:
        values: [L], one per layer in order.

    Raises:
        NumericalError: if a value is not finite.
    """
    cuts = [split_at(values, count) for count in range(1, len(values))]
    return max(cuts, key=lambda cut: cut.gain, default=None)
