"""How far two choices of directions of one spectrum, or two maps of ranks, agree, beside what chance would give."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from farss.errors import ShapeError
from farss.maths.selection import Direction, select


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


def rank_difference(first: Sequence[int], second: Sequence[int]) -> float:
    """The mean absolute difference of two maps of ranks, relative to the mean rank; 0 where there are no modules.

    Raises:
        ShapeError: if the maps differ in length.
    """
    if len(first) != len(second):
        raise ShapeError("two maps of ranks are of other modules", expected=len(first), got=len(second))
    total = sum(first) + sum(second)
    return 2 * sum(abs(a - b) for a, b in zip(first, second, strict=True)) / total if total else 0.0


def weighted_agreement(first: Tensor, second: Tensor, sigma: Tensor, rank: int, end: Direction) -> float | None:
    """How far two scorings of one spectrum agree about the directions at one of its ends, weighted by the scores.

    What a set of directions gains over chance is its mean log score less the mean of all directions. The agreement is
    the gain, by the one scoring, of the set that the other one chooses, as a share of the gain of its own choice: 1 for
    equal sets, about 0 for random ones. A direction exchanged for one of nearly the same score costs nearly nothing,
    however many are exchanged. Mean of both ways.

    Args:
        first: [k], logarithms of the one scores; a score of zero counts as the smallest of the others.
        second: [k], of the other ones.
        sigma: [k], singular values.
        rank: number of directions.
        end: "low" or "high".

    Returns:
        None where nothing can be gained: all directions are taken, or all have the same score.
    """
    choices = [list(select(scores.cpu(), sigma.cpu(), rank, end)) for scores in (first, second)]
    shares = []
    for scores, own, others in ((first, *choices), (second, *reversed(choices))):
        finite = torch.where(scores.isfinite(), scores, torch.inf)
        solid = torch.where(scores.isfinite(), scores, finite.min()).to(torch.float64)
        mean, best = float(solid.mean()), float(solid[own].mean())
        if len(own) == len(solid) or not abs(best - mean) > 0:
            return None
        shares.append((float(solid[others].mean()) - mean) / (best - mean))
    return statistics.fmean(shares)
