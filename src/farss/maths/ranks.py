"""Ranks of the shallow modules, decreasing with their Fisher importance (Eq. 9-12)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farss.errors import NumericalError, ShapeError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Allocation:
    """Ranks in module order, their requested total `r_avg * modules` (Eq. 10) and the total they add up to."""

    ranks: tuple[int, ...]
    requested: int
    realised: int


def allocate(
    importance: ArrayLike,
    *,
    r_min: int,
    r_avg: int,
    r_max: int,
    limits: Sequence[int],
    budget: Literal["clip", "redistribute"] = "clip",
    epsilon: float = 1e-12,
) -> Allocation:
    """Ranks inversely proportional to importance, within bounds (Eq. 9-12).

    Importances are divided by their sum before `epsilon` is added, so the ranks do not depend on the scale of the loss.
    "clip" is Eq. 12 as published: round half to even, then clip, which usually spends less than the budget.
    "redistribute" finds the factor tau for which `sum clip(tau w_i, low_i, high_i)` meets the budget, rounds down and
    gives the rest to the largest remainders (ties: less important first, then module order): the budget is met exactly
    whenever the bounds allow.
    In both, of two modules with equal limits the more important one never gets the larger rank.

    Args:
        importance: [E], non-negative.
        r_min: smallest rank; a module whose limit is below it gets its limit.
        r_avg: mean rank that the budget stands for.
        r_max: largest rank.
        limits: [E], min(m, n) of each module, the largest rank it can have.
        budget: "clip" or "redistribute".
        epsilon: added to the normalised importances.

    Returns:
        Allocation with one rank per module.

    Raises:
        ShapeError: if lengths differ or the bounds are not `1 <= r_min <= r_avg <= r_max`, or a limit is below 1.
        NumericalError: if an importance is negative, NaN or infinite.
    """
    values = np.asarray(importance, dtype=np.float64)
    ceiling = np.asarray(limits, dtype=np.int64)
    if values.ndim != 1 or values.shape != ceiling.shape:
        raise ShapeError("one limit per importance is needed", expected=values.shape, got=ceiling.shape)
    if not 1 <= r_min <= r_avg <= r_max:
        bounds = (r_min, r_avg, r_max)
        raise ShapeError("rank bounds must ascend from 1", expected="1 <= r_min <= r_avg <= r_max", got=bounds)
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise NumericalError("an importance is negative, NaN or infinite", got=values.tolist())
    if (ceiling < 1).any():
        raise ShapeError("every module needs room for rank 1", got=ceiling.tolist())
    if values.size == 0:
        return Allocation((), 0, 0)
    weights = _inverse(values, epsilon)
    high = np.minimum(r_max, ceiling)
    low = np.minimum(r_min, high)
    requested = r_avg * values.size
    if budget == "clip":
        ranks = np.clip(np.rint(requested * weights / weights.sum()), low, high).astype(np.int64)
    else:
        ranks = _meet(int(np.clip(requested, low.sum(), high.sum())), weights, values, low, high)
    return Allocation(tuple(int(r) for r in ranks), requested, int(ranks.sum()))


def _inverse(values: Floats, epsilon: float) -> Floats:
    total = values.sum()
    share = values / total if total > 0 else np.full(values.shape, 1 / values.size)
    return 1 / (share + epsilon)


def _meet(total: int, weights: Floats, values: Floats, low: Integers, high: Integers) -> Integers:
    """Integer ranks within [low, high] that add up to `total` exactly."""
    filled = np.clip(_water_level(total, weights, low, high) * weights, low, high)
    ranks = np.floor(filled).astype(np.int64)
    for module in np.lexsort((values, ranks - filled)):
        if ranks.sum() == total:
            break
        ranks[module] += ranks[module] < high[module]
    return ranks


def _water_level(total: int, weights: Floats, low: Integers, high: Integers) -> float:
    """The largest found tau with `sum clip(tau w, low, high) <= total`, to the last bit, by bisection."""
    below, above = 0.0, float((high / weights).max())
    if np.clip(above * weights, low, high).sum() <= total:
        return above
    while below < (middle := (below + above) / 2) < above:
        if np.clip(middle * weights, low, high).sum() <= total:
            below = middle
        else:
            above = middle
    return below
