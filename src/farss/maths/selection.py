"""Which directions of a spectrum an adapter starts from."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from farss.errors import NumericalError, ShapeError

Direction = Literal["low", "high", "mid", "random"]


def select(
    log_s: ArrayLike,
    sigma: ArrayLike,
    rank: int,
    direction: Direction,
    *,
    seed: int = 0,
    exclude_zero: bool = True,
) -> tuple[int, ...]:
    """The chosen positions in the spectrum, ascending (Eq. 16 and 17).

    The direction is the caller's explicit choice and never follows from the rank. Equal scores keep the order of the
    spectrum. A direction with sigma = 0 gives A = B = 0, which gradient descent never leaves, so it is not chosen.

    Args:
        log_s: [k], logarithm of the scores; -inf is a zero score.
        sigma: [k], singular values.
        rank: number of directions, 1 to k.
        direction: "low" or "high" scores, the "mid" of the sorted scores, or a "random" set.
        seed: of the random set.
        exclude_zero: leave out directions whose sigma is exactly zero.

    Returns:
        `rank` ascending indices; fewer if fewer directions are not zero.

    Raises:
        ShapeError: if the lengths differ or the rank is not within 1 to k.
        NumericalError: if a score is NaN or no direction can be chosen.
    """
    scores, values = np.asarray(log_s, dtype=np.float64), np.asarray(sigma, dtype=np.float64)
    if scores.ndim != 1 or scores.shape != values.shape:
        raise ShapeError("one score per singular value is needed", expected=values.shape, got=scores.shape)
    if not 1 <= rank <= scores.size:
        raise ShapeError("impossible rank", where="rank", expected=f"1 to {scores.size}", got=rank)
    if np.isnan(scores).any():
        raise NumericalError("a direction score is NaN", got=f"{int(np.isnan(scores).sum())} of {scores.size}")
    allowed = np.flatnonzero(values != 0) if exclude_zero else np.arange(scores.size)
    if allowed.size == 0:
        raise NumericalError("every singular value is zero", do="exclude this module")
    count = min(rank, allowed.size)
    if direction == "random":
        chosen = np.random.default_rng(seed).permutation(allowed)[:count]
    else:
        key = -scores[allowed] if direction == "high" else scores[allowed]
        ordered = allowed[np.argsort(key, kind="stable")]
        start = (allowed.size - count) // 2 if direction == "mid" else 0
        chosen = ordered[start : start + count]
    return tuple(int(i) for i in np.sort(chosen))
