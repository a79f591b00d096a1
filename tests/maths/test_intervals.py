"""Paired bootstrap against closed forms, and McNemar against the binomial sum."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from farss.errors import NumericalError, ShapeError
from farss.maths.intervals import Interval, PairedBootstrap, mcnemar


def test_every_resample_draws_as_many_questions_as_the_set_has():
    counts = PairedBootstrap({"a": 300}, 50, 1).counts("a")
    assert (counts.astype(int).sum(1) == 300).all()


def test_same_resample_for_every_call_so_differences_cancel():
    bootstrap = PairedBootstrap({"a": 40}, 100)
    values = np.random.default_rng(0).normal(size=40)
    np.testing.assert_allclose(bootstrap.means("a", values + 3) - bootstrap.means("a", values), 3, rtol=1e-12)


def test_means_equal_explicitly_repeated_questions():
    bootstrap = PairedBootstrap({"a": 25}, 7, 3)
    values = np.random.default_rng(1).normal(size=25)
    explicit = [np.repeat(values, row).mean() for row in bootstrap.counts("a")]
    np.testing.assert_allclose(bootstrap.means("a", values), explicit, rtol=1e-12)


def test_columns_are_resampled_together():
    bootstrap = PairedBootstrap({"a": 25}, 300, 3)
    table = np.random.default_rng(1).normal(size=(25, 2))
    np.testing.assert_allclose(bootstrap.means("a", table)[:, 1], bootstrap.means("a", table[:, 1]), rtol=1e-12)


def test_resample_of_a_set_does_not_depend_on_the_other_sets():
    alone, beside = PairedBootstrap({"a": 30}, 20, 5), PairedBootstrap({"b": 9, "a": 30}, 20, 5)
    assert (alone.counts("a") == beside.counts("a")).all()


def test_sets_and_seeds_resample_independently():
    bootstrap = PairedBootstrap({"a": 30, "b": 30}, 20, 5)
    assert (bootstrap.counts("a") != bootstrap.counts("b")).any()
    assert (bootstrap.counts("a") != PairedBootstrap({"a": 30}, 20, 6).counts("a")).any()


def test_standard_error_of_the_mean_is_recovered():
    values = np.random.default_rng(2).normal(size=400)
    replicates = PairedBootstrap({"a": 400}, 4000).means("a", values)
    assert np.std(replicates) == pytest.approx(values.std() / math.sqrt(400), rel=0.05)


def test_interval_covers_the_truth_about_as_often_as_stated():
    rng, covered = np.random.default_rng(4), 0
    for trial in range(200):
        values = rng.normal(size=60)
        bootstrap = PairedBootstrap({"a": 60}, 400, trial)
        interval = bootstrap.interval(values.mean(), bootstrap.means("a", values))
        covered += interval.low <= 0 <= interval.high
    assert 0.88 <= covered / 200 <= 0.99


def test_paper_sized_bootstrap_is_fast():
    bootstrap, values = PairedBootstrap({"a": 2500}, 2000), np.ones(2500)
    start = time.process_time()
    bootstrap.means("a", values)
    assert time.process_time() - start < 2.0


def test_undefined_replicates_are_tolerated_only_within_a_tail():
    bootstrap = PairedBootstrap({"a": 3}, 1000)
    replicates = np.linspace(0, 1, 1000)
    replicates[:10] = np.inf
    assert bootstrap.interval(0.5, replicates).high == pytest.approx(0.975, abs=2e-3)
    replicates[:100] = np.nan
    with pytest.raises(NumericalError, match="undefined"):
        bootstrap.interval(0.5, replicates)


@pytest.mark.parametrize("values", [np.ones(4), np.ones((3, 2, 1))])
def test_wrong_number_of_values_is_refused(values):
    with pytest.raises(ShapeError):
        PairedBootstrap({"a": 3}, 5).means("a", values)


def test_nan_unknown_set_empty_set_and_bad_level_are_refused():
    bootstrap = PairedBootstrap({"a": 2}, 5)
    with pytest.raises(NumericalError):
        bootstrap.means("a", [1.0, math.nan])
    with pytest.raises(ShapeError, match="unknown set"):
        bootstrap.means("b", [1.0])
    with pytest.raises(ShapeError):
        PairedBootstrap({"a": 0})
    with pytest.raises(ShapeError):
        bootstrap.interval(0, np.ones(5), level=1.0)
    with pytest.raises(ShapeError):
        bootstrap.interval(0, np.ones(4))


def test_interval_says_whether_zero_is_excluded():
    assert Interval(1, 0.5, 2).excludes_zero and Interval(-1, -2, -0.5).excludes_zero
    assert not Interval(0.1, -1, 1).excludes_zero


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (5, 0), (7, 2), (3, 3), (1, 9)])
def test_mcnemar_equals_the_binomial_sum(lost, gained):
    before = [True] * lost + [False] * gained + [True, False]
    after = [False] * lost + [True] * gained + [True, False]
    n, least = lost + gained, min(lost, gained)
    tail = sum(math.comb(n, i) for i in range(least + 1)) / 2**n
    result = mcnemar(before, after)
    assert (result.lost, result.gained) == (lost, gained)
    assert result.p == pytest.approx(min(1.0, 2 * tail))


def test_mcnemar_refuses_unpaired_answers():
    with pytest.raises(ShapeError):
        mcnemar([True], [True, False])
