"""Measures of knowledge and task against hand-computed values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from farss.errors import NumericalError, ShapeError
from farss.maths.metrics import (
    frontier_area,
    harmonic,
    knowledge_kept,
    knowledge_kept_clipped,
    ratios,
    task_gained,
    task_share_gained,
)

BEFORE, AFTER = {"a": 50.0, "b": 5.0}, {"a": 40.0, "b": 10.0}


def test_ratios_and_their_means():
    assert ratios(AFTER, BEFORE) == {"a": 0.8, "b": 2.0}
    assert knowledge_kept(AFTER, BEFORE) == task_gained(AFTER, BEFORE) == pytest.approx(1.4)
    assert knowledge_kept_clipped(AFTER, BEFORE) == pytest.approx(0.9)


def test_the_untouched_model_keeps_everything():
    assert knowledge_kept(BEFORE, BEFORE) == knowledge_kept_clipped(BEFORE, BEFORE) == 1


@pytest.mark.parametrize("measure", [ratios, knowledge_kept, knowledge_kept_clipped, task_gained])
def test_reference_of_zero_is_refused_by_name(measure):
    with pytest.raises(NumericalError, match="webqs"):
        measure({"webqs": 1.0}, {"webqs": 0.0})


@pytest.mark.parametrize(("after", "before"), [({"a": 1.0}, {"b": 1.0}), ({}, {})])
def test_different_benchmarks_are_refused(after, before):
    with pytest.raises(ShapeError):
        knowledge_kept(after, before)


def test_nan_score_is_refused():
    with pytest.raises(NumericalError, match="a"):
        knowledge_kept({"a": math.nan}, {"a": 1.0})


@pytest.mark.parametrize(
    ("a", "b", "expected"), [(1.0, 1.0, 1.0), (0.5, 1.0, 2 / 3), (0.0, 1.0, 0.0), (-0.2, 1.0, 0.0), (-1.0, 1.0, 0.0)]
)
def test_harmonic_mean(a, b, expected):
    assert harmonic(a, b) == harmonic(b, a) == pytest.approx(expected)


def test_arrays_give_the_same_as_their_elements():
    rng = np.random.default_rng(0)
    after = {"a": rng.random(7), "b": rng.random(7)}
    single = [knowledge_kept({k: float(v[i]) for k, v in after.items()}, BEFORE) for i in range(7)]
    np.testing.assert_allclose(knowledge_kept(after, {k: np.full(7, v) for k, v in BEFORE.items()}), single)
    other = rng.random(7) - 0.5
    np.testing.assert_allclose(
        harmonic(after["a"], other), [harmonic(float(x), float(y)) for x, y in zip(after["a"], other, strict=True)]
    )


def test_undefined_replicates_are_nan():
    replicates = knowledge_kept({"a": np.array([1.0, 1.0])}, {"a": np.array([0.0, 2.0])})
    assert math.isnan(replicates[0]) and replicates[1] == 0.5
    shares = task_share_gained(np.array([2.0, 2.0]), np.array([1.5, 1.5]), np.array([2.0, 1.0]))
    assert math.isnan(shares[0]) and shares[1] == 0.5
    assert math.isnan(harmonic(shares, np.ones(2))[0])


def test_task_share_gained():
    assert task_share_gained(3.0, 2.0, 1.0) == 0.5
    assert task_share_gained(3.0, 4.0, 1.0) == -0.5
    with pytest.raises(NumericalError, match="did not reduce"):
        task_share_gained(3.0, 2.0, 3.0)


@pytest.mark.parametrize(
    ("points", "area"),
    [
        ([], 0.0),
        ([(0.0, 1.0)], 0.0),
        ([(-0.5, 2.0)], 0.0),
        ([(1.0, 1.0)], 1.0),
        ([(1.0, 0.0)], 0.5),
        ([(1.0, 0.5), (0.5, 0.8)], 0.5 * 0.9 + 0.5 * 0.65),
        ([(0.5, 0.2), (1.0, 0.6)], 0.5 * 0.8 + 0.5 * 0.6),  # a dominated point is lifted to the envelope
    ],
)
def test_frontier_area(points, area):
    assert frontier_area(points) == pytest.approx(area)


def test_frontier_area_grows_with_any_added_gain_or_kept_knowledge():
    base = [(0.5, 0.9), (1.0, 0.6)]
    for better in ([(0.5, 0.95), (1.0, 0.6)], [*base, (1.2, 0.5)]):
        assert frontier_area(better) > frontier_area(base)
    with pytest.raises(NumericalError):
        frontier_area([(math.nan, 1.0)])


def test_frontier_area_of_resamples_is_that_of_each():
    rng = np.random.default_rng(0)
    points = rng.uniform([-0.5, 0.2], [1.2, 1.1], size=(300, 6, 2))
    areas = frontier_area([(points[:, i, 0], points[:, i, 1]) for i in range(6)])
    np.testing.assert_allclose(areas, [frontier_area([tuple(pair) for pair in one]) for one in points], rtol=1e-12)
    points[7, 2, 0] = math.nan
    areas = frontier_area([(points[:, i, 0], points[:, i, 1]) for i in range(6)])
    assert np.flatnonzero(np.isnan(areas)).tolist() == [7]
