"""Uncertainty of a difference between models measured on the same questions: paired bootstrap and McNemar.

Every model answers the same questions, so questions are resampled once per set and the same resample is used for all
models: what is common to them cancels in differences and ratios. Sets are resampled separately (stratified).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest

from farss.errors import NumericalError, ShapeError

# Rows of the count matrix turned into floats at once: keeps the float copy of a large set at tens of megabytes.
_ROWS_PER_PRODUCT = 256


@dataclass(frozen=True)
class Interval:
    """A value with its percentile interval; `level` is the coverage aimed at."""

    value: float
    low: float
    high: float
    level: float = 0.95

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside the interval, the two-sided test of a paired difference at `1 - level`."""
        return self.low > 0 or self.high < 0

    def to_mapping(self) -> dict[str, float]:
        """The value and both ends, ready for JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


class PairedBootstrap:
    """Resampled means over questions, the same resample of a set for every model and every quantity.

    A resample of N questions is kept as its counts [N], so that resampled means are one matrix product. Ratios of sums
    (loss per token) are ratios of two `means`. The resample of a set depends on `seed`, its name and its size only,
    not on which other sets there are.

    Args:
        sizes: number of questions of each set.
        resamples: number of resamples.
        seed: of the resampling.

    Raises:
        ShapeError: if a set is empty or there are no resamples.
    """

    def __init__(self, sizes: Mapping[str, int], resamples: int = 2000, seed: int = 0) -> None:
        empty = [name for name, size in sizes.items() if size < 1]
        if empty:
            raise ShapeError("a set without questions cannot be resampled", where=", ".join(empty))
        if resamples < 1:
            raise ShapeError("at least one resample is needed", where="resamples", got=resamples)
        self.sizes, self.resamples, self.seed = dict(sizes), resamples, seed
        self._counts: dict[str, NDArray[np.integer]] = {}

    def counts(self, set_name: str) -> NDArray[np.integer]:
        """How often each question of the set is drawn.

        Returns:
            [resamples, N] integers, every row summing to N.

        Raises:
            ShapeError: if the set is unknown.
        """
        if set_name not in self.sizes:
            raise ShapeError("unknown set", where=set_name, expected=" | ".join(self.sizes))
        if set_name not in self._counts:
            self._counts[set_name] = self._draw(set_name, self.sizes[set_name])
        return self._counts[set_name]

    def _draw(self, set_name: str, size: int) -> NDArray[np.integer]:
        rng = np.random.default_rng([self.seed, zlib.crc32(set_name.encode("utf-8"))])
        dtype = np.min_scalar_type(size)  # a count never exceeds the size of the set
        counts = np.empty((self.resamples, size), dtype=dtype)
        for row in range(self.resamples):
            counts[row] = np.bincount(rng.integers(0, size, size), minlength=size)
        return counts

    def means(self, set_name: str, values: ArrayLike) -> NDArray[np.float64]:
        """Means of `values` over every resample of the set.

        Args:
            set_name: one of `sizes`.
            values: [N] or [N, c], one row per question, always in the same order of questions.

        Returns:
            [resamples] or [resamples, c] float64.

        Raises:
            ShapeError: if the set is unknown or `values` does not have one row per question.
            NumericalError: if a value is NaN or infinite.
        """
        counts = self.counts(set_name)
        table = np.asarray(values, dtype=np.float64)
        size = self.sizes[set_name]
        if table.ndim not in (1, 2) or table.shape[0] != size:
            raise ShapeError("one value per question is needed", where=set_name, expected=size, got=table.shape)
        if not np.isfinite(table).all():
            raise NumericalError("a value to resample is NaN or infinite", where=set_name)
        blocks = range(0, self.resamples, _ROWS_PER_PRODUCT)
        sums = [counts[i : i + _ROWS_PER_PRODUCT].astype(np.float64) @ table for i in blocks]
        return np.concatenate(sums) / size

    def interval(self, value: float, replicates: ArrayLike, level: float = 0.95) -> Interval:
        """The percentile interval of a statistic.

        Replicates where the statistic is undefined (NaN or infinite, e.g. a ratio whose denominator was resampled to
        zero) are left out as long as they are fewer than one tail of the interval.

        Args:
            value: the statistic on the full sample.
            replicates: [resamples], the statistic on every resample.
            level: coverage, between 0 and 1.

        Returns:
            Interval with the `(1 - level) / 2` and `(1 + level) / 2` quantiles of the replicates.

        Raises:
            ShapeError: if there is not one replicate per resample, or the level is not inside (0, 1).
            NumericalError: if the share of undefined replicates exceeds one tail.
        """
        drawn = np.asarray(replicates, dtype=np.float64)
        if drawn.shape != (self.resamples,):
            raise ShapeError("one replicate per resample is needed", expected=(self.resamples,), got=drawn.shape)
        if not 0 < level < 1:
            raise ShapeError("the level must lie between 0 and 1", where="level", got=level)
        tail = (1 - level) / 2
        defined = drawn[np.isfinite(drawn)]
        undefined = 1 - defined.size / drawn.size
        if undefined > tail:
            raise NumericalError(
                "the statistic is undefined on too many resamples for an interval",
                expected=f"at most {tail:.1%}",
                got=f"{undefined:.1%}",
                do="measure more questions",
            )
        low, high = np.quantile(defined, [tail, 1 - tail])
        return Interval(float(value), float(low), float(high), level)


def share_interval(hits: int, asked: int, level: float = 0.95) -> Interval:
    """A share with Wilson's interval, which stays inside [0, 1] and has a width where all or none are hits.

    Raises:
        NumericalError: if nothing was asked.
    """
    if asked < 1:
        raise NumericalError("a share of nothing is not defined", where="asked", expected="at least 1", got=asked)
    found = binomtest(hits, asked).proportion_ci(level, method="wilson")
    return Interval(hits / asked, float(found.low), float(found.high), level)


@dataclass(frozen=True)
class McNemar:
    """Questions answered right only before (`lost`) and only after (`gained`), with the exact two-sided p-value."""

    lost: int
    gained: int
    p: float


def mcnemar(before: ArrayLike, after: ArrayLike) -> McNemar:
    """The exact McNemar test of whether as many answers were lost as gained.

    Args:
        before: [N] booleans, right before.
        after: [N] booleans, right after, same questions in the same order.

    Returns:
        McNemar with both counts; p = 1 if no answer changed.

    Raises:
        ShapeError: if the lengths differ.
    """
    first, second = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    if first.shape != second.shape or first.ndim != 1:
        raise ShapeError("paired answers must be two equally long lists", got=(first.shape, second.shape))
    lost, gained = int((first & ~second).sum()), int((~first & second).sum())
    changed = lost + gained
    p = float(binomtest(lost, changed, 0.5).pvalue) if changed else 1.0
    return McNemar(lost, gained, p)
