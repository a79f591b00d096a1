"""How far two choices of directions of one spectrum agree, beside what chance would give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from farss.errors import ShapeError


@dataclass(frozen=True)
class Agreement:
    """Two sets of directions compared.

    Attributes:
        jaccard: size of the intersection over size of the union.
        overlap: `||V_1' V_2||_F^2 / r`, the mean squared cosine between the subspaces the two sets span, with r the
            smaller size. The directions are columns of one orthonormal basis, so it is the share of them in common.
        chance: `overlap` expected of two random sets of these sizes among the k directions.
        above_chance: `(overlap - chance) / (1 - chance)`: 1 for equal sets, about 0 for random ones; None where the
            sets hold all directions, so that they cannot differ.
    """

    jaccard: float
    overlap: float
    chance: float
    above_chance: float | None


def agreement(first: Sequence[int], second: Sequence[int], k: int) -> Agreement:
    """The agreement of two sets of directions.

    Args:
        first: positions in the spectrum.
        second: positions in the same spectrum.
        k: number of directions in all.

    Raises:
        ShapeError: if a set is empty, or a position lies outside the spectrum.
    """
    one, two = set(first), set(second)
    if not one or not two or not all(0 <= index < k for index in one | two):
        raise ShapeError("two sets of directions are needed", expected=f"positions 0 to {k - 1}", got=(first, second))
    common, size = len(one & two), min(len(one), len(two))
    overlap, chance = common / size, max(len(one), len(two)) / k
    rest = 1 - chance
    return Agreement(common / len(one | two), overlap, chance, (overlap - chance) / rest if rest > 0 else None)
