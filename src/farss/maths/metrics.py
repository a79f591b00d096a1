"""How much knowledge was kept and how much of the task was gained (Eq. 36-38), and their likelihood counterparts.

Every measure takes plain floats, or arrays [resamples] of resampled scores and then returns an array: an interval is
computed by the same code as the value. A ratio that is undefined raises for floats and is NaN inside arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from farss.errors import NumericalError, ShapeError

Score = TypeVar("Score", float, NDArray[np.float64])


def ratios(after: Mapping[str, Score], before: Mapping[str, Score]) -> dict[str, Score]:
    """Score after over score before, per benchmark.

    Args:
        after: score per benchmark, any unit.
        before: score of the same benchmarks, same unit.

    Returns:
        One ratio per benchmark, in the order of `before`.

    Raises:
        ShapeError: if the benchmarks differ or there are none.
        NumericalError: naming the benchmark whose score before is zero, or that has a score that is not finite.
    """
    if not before or set(after) != set(before):
        raise ShapeError("the same benchmarks are needed on both sides", expected=sorted(before), got=sorted(after))
    return {name: _divide(after[name], before[name], name) for name in before}


def knowledge_kept(after: Mapping[str, Score], before: Mapping[str, Score]) -> Score:
    """K, the mean over knowledge benchmarks of the score after over the score of the base model (Eq. 36).

    Raises:
        ShapeError, NumericalError: as `ratios`.
    """
    return _mean(list(ratios(after, before).values()))


def knowledge_kept_clipped(after: Mapping[str, Score], before: Mapping[str, Score]) -> Score:
    """K with every ratio limited to 1, so that a gain on a small benchmark cannot hide a loss on another.

    Raises:
        ShapeError, NumericalError: as `ratios`.
    """
    return _mean([np.minimum(ratio, 1.0) for ratio in ratios(after, before).values()])


def task_gained(method: Mapping[str, Score], full: Mapping[str, Score]) -> Score:
    """T, the mean over task benchmarks of the method's score over full fine-tuning's (Eq. 37).

    Raises:
        ShapeError, NumericalError: as `ratios`.
    """
    return _mean(list(ratios(method, full).values()))


def harmonic(first: Score, second: Score) -> Score:
    """The harmonic mean of two measures, KT for K and T (Eq. 38); 0 where either is zero or negative.

    A negative share (a task that got worse) has no harmonic mean; 0 says that one of the two aims failed entirely.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    positive = (a > 0) & (b > 0)
    undefined = np.isnan(a) | np.isnan(b)
    total = np.where(positive, a + b, 1.0)
    return _plain(np.where(undefined, np.nan, np.where(positive, 2 * a * b / total, 0.0)))


def task_share_gained(loss_before: Score, loss_method: Score, loss_full: Score) -> Score:
    """T_l, the share of full fine-tuning's loss reduction that the method reached; negative if the loss rose.

    Args:
        loss_before: nats per token of the base model on held-out responses.
        loss_method: the same after the method.
        loss_full: the same after full fine-tuning.

    Returns:
        `(before - method) / (before - full)`.

    Raises:
        NumericalError: if full fine-tuning did not reduce the loss, or a loss is not finite.
    """
    gain = np.asarray(loss_before, dtype=np.float64) - np.asarray(loss_full, dtype=np.float64)
    if gain.ndim == 0 and not gain > 0:
        raise NumericalError(
            "full fine-tuning did not reduce the task loss, so no share of it can be stated",
            expected=f"below {float(loss_before):.6g}",
            got=f"{float(loss_full):.6g}",
            do="train full fine-tuning longer or at another learning rate",
        )
    reached = np.asarray(loss_before, dtype=np.float64) - np.asarray(loss_method, dtype=np.float64)
    _require_finite(reached, "task loss")
    usable = np.where(gain > 0, gain, 1.0)
    return _plain(np.where(gain > 0, reached / usable, np.nan))


def frontier_area(points: Sequence[tuple[Score, Score]]) -> Score:
    """Area under the best knowledge kept over task gained, from 0 to the largest task gained.

    The curve starts at (0, 1), the untouched model. At each point with a positive gain its height is the largest
    knowledge kept among the points that gain at least as much (the upper envelope, never rising to the right); between
    points it is linear. More task gained and more knowledge kept both enlarge the area; a method that keeps everything
    has its largest task gained as area.

    Args:
        points: pairs (task gained, knowledge kept), one per scale or learning rate, in any order: floats, or arrays
            [resamples] of them.

    Returns:
        The area, or [resamples] of them; 0 if no point gains anything. NaN inside arrays where a coordinate is NaN.

    Raises:
        NumericalError: if a coordinate that is a float is not finite.
    """
    table = np.asarray(points, dtype=np.float64)
    table = table.reshape(-1, 2, *table.shape[2:])
    if table.ndim == 2:
        _require_finite(table, "frontier point")
    order = np.argsort(table[:, 0], axis=0, kind="stable")
    gained, kept = (np.take_along_axis(table[:, axis], order, axis=0) for axis in (0, 1))
    envelope = np.maximum.accumulate(kept[::-1], axis=0)[::-1]
    # A point that gains nothing is moved to the start of the curve, where it has no width.
    start = np.zeros_like(table[:1, 0])
    width = np.diff(np.concatenate([start, np.maximum(gained, 0.0)]), axis=0)
    height = np.concatenate([start + 1, np.where(gained <= 0, 1.0, envelope)])
    area = (width * (height[1:] + height[:-1]) / 2).sum(axis=0)
    return _plain(np.where(np.isnan(table).any(axis=(0, 1)), np.nan, area))


def _divide(after: Any, before: Any, name: str) -> Any:
    top, bottom = np.asarray(after, dtype=np.float64), np.asarray(before, dtype=np.float64)
    _require_finite(top, name)
    _require_finite(bottom, name)
    if bottom.ndim == 0 and bottom == 0:
        raise NumericalError(
            "a ratio to a score of zero is undefined",
            where=name,
            do="leave this benchmark out, or measure it by likelihood",
        )
    safe = np.where(bottom == 0, 1.0, bottom)
    return _plain(np.where(bottom == 0, np.nan, top / safe))


def _mean(values: Sequence[Any]) -> Any:
    return _plain(np.mean(np.stack([np.asarray(v, dtype=np.float64) for v in values]), axis=0))


def _plain(value: NDArray[np.float64]) -> Any:
    """A float for a scalar, else the array itself."""
    return float(value) if np.ndim(value) == 0 else value


def _require_finite(values: NDArray[np.float64], name: str) -> None:
    if not np.isfinite(values).all():
        raise NumericalError("a score is NaN or infinite", where=name)
