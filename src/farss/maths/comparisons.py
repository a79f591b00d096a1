"""All pairs of several methods at once: intervals and p-values that hold for the whole family of comparisons.

Methods are judged on the same resampled questions, and each on a resample of its own trainings (seeds), so one joint
set of replicates [resamples, methods] stands for both kinds of chance. Everything here is computed from it.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farss.errors import NumericalError, ShapeError

NO_SPREAD = 1e-10
"""A standard error below this share of the largest value compared is rounding: the difference is taken as certain."""


def seed_weights(trainings: Mapping[str, int], resamples: int, seed: int = 0) -> dict[str, NDArray[np.float64]]:
    """The weight of each training of each method in each resample, for means over resampled seeds.

    Of S trainings of a method, S - 1 are drawn with replacement and averaged (Rao and Wu, "Resampling inference with
    complex survey data", 1988): the variance of that mean over resamples is `s**2 / S` with the usual divisor S - 1,
    where S draws would give `(S - 1) / S` of it, a half for two seeds. A single training has weight 1 always: its
    resamples hold no chance of training. Methods are drawn independently, also where their seeds are equal numbers.

    Args:
        trainings: number of trainings S of each method. The draws of a method depend on its name, its S and `seed`.
        resamples: number of resamples.
        seed: of the resampling.

    Returns:
        [resamples, S] float64 per method, every row summing to 1.

    Raises:
        ShapeError: if a method has no training.
    """
    weights = {}
    for name, count in trainings.items():
        if count < 1:
            raise ShapeError("a method without a training cannot be compared", where=name)
        draws = max(count - 1, 1)
        rng = np.random.default_rng([seed, zlib.crc32(f"trainings of {name}".encode())])
        weights[name] = rng.multinomial(draws, np.full(count, 1 / count), size=resamples) / draws
    return weights


@dataclass(frozen=True)
class Difference:
    """Method `a` minus method `b`.

    Attributes:
        a: index of the first method.
        b: index of the second.
        value: the difference of their values.
        error: its standard error, the standard deviation over resamples.
        low: lower end of its simultaneous interval.
        high: upper end.
        p: two-sided bootstrap p-value, of this pair alone.
        p_holm: the same by Holm's procedure over all pairs.
    """

    a: int
    b: int
    value: float
    error: float
    low: float
    high: float
    p: float
    p_holm: float


def all_differences(
    values: ArrayLike, replicates: ArrayLike, level: float = 0.95
) -> tuple[list[Difference], float | None]:
    """Every pair of methods with its simultaneous interval and its p-values, from one set of joint resamples.

    For the pair j let `d_j` be the difference of the values, `d_j*` that of the replicates, `e_j` the standard
    deviation of `d_j*` over resamples and `t_j* = |d_j* - d_j| / e_j`. The critical value c is the `level` quantile
    over resamples of `max_j t_j*`, the studentised maximum, and the interval of every pair is `d_j -+ c e_j`: all of
    them hold together with about this level. The p-value is `(1 + #(t_j* >= |d_j| / e_j)) / (resamples + 1)`; Holm's
    procedure (1979) multiplies the i-th smallest of m by `m - i + 1` and never lets a larger one get smaller.

    Resamples on which any method is undefined (NaN or infinite) are left out as long as they are fewer than
    `(1 - level) / 2` of all. A pair without spread (`NO_SPREAD`), such as a method and itself, has its value as
    interval and no part in c; its p-value is 1 where the difference is zero and the least there can be where it is not.

    Args:
        values: [m], the measure of each method; at least two.
        replicates: [resamples, m], the same on every joint resample of questions and trainings.
        level: coverage of all intervals together, between 0 and 1.

    Returns:
        One Difference per pair in the order (0, 1), (0, 2), ..., and c; None where no pair has any spread.

    Raises:
        ShapeError: if the shapes do not fit, or the level is not inside (0, 1).
        NumericalError: if too many resamples are undefined.
    """
    table, drawn = np.asarray(values, dtype=np.float64), _defined(replicates, level)
    if table.ndim != 1 or table.size < 2 or drawn.shape[1:] != table.shape:
        raise ShapeError("one column of resamples per method is needed", expected=table.shape, got=drawn.shape)
    first, second = np.asarray(list(itertools.combinations(range(table.size), 2))).T
    value, spread = table[first] - table[second], drawn[:, first] - drawn[:, second]
    error = spread.std(axis=0, ddof=1)
    certain = error <= NO_SPREAD * np.abs(table).max()
    zero = np.abs(value) <= NO_SPREAD * np.abs(table).max()
    scale = np.where(certain, 1.0, error)
    distance = np.where(certain, 0.0, np.abs(spread - value) / scale)
    critical = None if certain.all() else float(np.quantile(distance.max(axis=1), level))
    reached = np.where(certain, zero * len(drawn), (distance >= np.abs(value) / scale).sum(axis=0))
    p = (1 + reached) / (len(drawn) + 1)
    half = np.where(certain, 0.0, (critical or 0.0) * error)
    columns = (value, error, value - half, value + half, p, holm(p))
    pairs = zip(first.tolist(), second.tolist(), *(column.tolist() for column in columns), strict=True)
    return [Difference(*pair) for pair in pairs], critical


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """P-values adjusted so that rejecting those below a level keeps the chance of any false rejection below it.

    Args:
        p: [m], p-values of single tests, however dependent.

    Returns:
        [m] in the same order, at most 1. Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    single = np.asarray(p, dtype=np.float64)
    order = np.argsort(single, kind="stable")
    stepped = np.maximum.accumulate(single[order] * np.arange(single.size, 0, -1))
    adjusted = np.empty_like(single)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def _defined(replicates: ArrayLike, level: float) -> NDArray[np.float64]:
    drawn = np.asarray(replicates, dtype=np.float64)
    if drawn.ndim != 2 or len(drawn) < 2:
        raise ShapeError("replicates are a table of at least two resamples", expected="[resamples, m]", got=drawn.shape)
    if not 0 < level < 1:
        raise ShapeError("the level must lie between 0 and 1", where="level", got=level)
    kept = drawn[np.isfinite(drawn).all(axis=1)]
    undefined = 1 - len(kept) / len(drawn)
    if undefined > (1 - level) / 2:
        raise NumericalError(
            "the measure is undefined on too many resamples to compare methods",
            expected=f"at most {(1 - level) / 2:.1%}",
            got=f"{undefined:.1%}",
            do="measure more questions",
        )
    return kept
