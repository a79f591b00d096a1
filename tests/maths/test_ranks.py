"""Rank allocation against Eq. 9-12, and its properties for any importances."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farss.errors import NumericalError, ShapeError
from farss.maths.ranks import allocate

IMPORTANCE = st.lists(st.one_of(st.just(0.0), st.floats(1e-30, 1e30)), min_size=1, max_size=30)
BOUNDS = st.tuples(st.integers(1, 20), st.integers(0, 40), st.integers(0, 40)).map(
    lambda t: {"r_min": t[0], "r_avg": t[0] + t[1], "r_max": t[0] + t[1] + t[2]}
)
BUDGET = st.sampled_from(["clip", "redistribute"])


def test_clip_reproduces_the_equations():
    importance, epsilon = [3.0, 1.0, 0.5, 20.0], 1e-12
    weights = [1 / (i / sum(importance) + epsilon) for i in importance]
    raw = [40 * w / sum(weights) for w in weights]
    expected = tuple(min(max(round(r), 2), 16) for r in raw)
    assert allocate(importance, r_min=2, r_avg=10, r_max=16, limits=[64] * 4).ranks == expected


def test_clip_rounds_half_to_even():
    ranks = allocate([1.0, 3.0 / 5.0], r_min=1, r_avg=2, r_max=9, limits=[9, 9]).ranks  # raw 1.5 and 2.5
    assert ranks == (2, 2)


@pytest.mark.parametrize("budget", ["clip", "redistribute"])
def test_equal_importance_gives_the_average(budget):
    result = allocate([0.0] * 5, r_min=1, r_avg=7, r_max=9, limits=[64] * 5, budget=budget)
    assert result.ranks == (7,) * 5 and result.requested == result.realised == 35


def test_clipping_loses_budget_and_redistribution_does_not():
    importance = [math.exp(1.5 * z) for z in (-2, -1, -0.5, 0, 0.2, 1, 2)]
    options = {"r_min": 1, "r_avg": 50, "r_max": 64, "limits": [576] * 7}
    clipped, kept = allocate(importance, **options), allocate(importance, **options, budget="redistribute")
    assert clipped.realised < clipped.requested == kept.requested == kept.realised


def test_remainders_are_given_in_module_order():
    result = allocate([1.0] * 4, r_min=1, r_avg=3, r_max=4, limits=[4, 4, 4, 1], budget="redistribute")
    assert result.ranks == (4, 4, 3, 1)


@given(IMPORTANCE, BOUNDS, BUDGET, st.data())
@settings(deadline=None)
def test_ranks_stay_within_bounds_and_limits(importance, bounds, budget, data):
    limits = data.draw(st.lists(st.integers(1, 90), min_size=len(importance), max_size=len(importance)))
    result = allocate(importance, **bounds, limits=limits, budget=budget)
    for rank, limit in zip(result.ranks, limits, strict=True):
        assert min(bounds["r_min"], limit) <= rank <= min(bounds["r_max"], limit)
    assert result.realised == sum(result.ranks)


@given(IMPORTANCE, BOUNDS, st.data())
@settings(deadline=None)
def test_redistribution_meets_the_budget_exactly(importance, bounds, data):
    limits = data.draw(st.lists(st.integers(1, 90), min_size=len(importance), max_size=len(importance)))
    result = allocate(importance, **bounds, limits=limits, budget="redistribute")
    low = sum(min(bounds["r_min"], limit) for limit in limits)
    high = sum(min(bounds["r_max"], limit) for limit in limits)
    assert result.realised == min(max(result.requested, low), high)


@given(IMPORTANCE, BOUNDS, BUDGET)
@settings(deadline=None)
def test_more_important_never_gets_the_larger_rank(importance, bounds, budget):
    ranks = allocate(importance, **bounds, limits=[200] * len(importance), budget=budget).ranks
    ordered = [rank for _, rank in sorted(zip(importance, ranks, strict=True), key=lambda pair: (pair[0], -pair[1]))]
    assert ordered == sorted(ordered, reverse=True)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=20), BUDGET, st.integers(-40, 40))
@settings(deadline=None)
def test_scale_of_the_loss_does_not_matter(importance, budget, power):
    options = {"r_min": 1, "r_avg": 50, "r_max": 64, "limits": [99] * len(importance), "budget": budget}
    scaled = [i * 2.0**power for i in importance]
    assert allocate(importance, **options).ranks == allocate(scaled, **options).ranks


def test_no_modules_need_no_ranks():
    assert allocate([], r_min=1, r_avg=2, r_max=3, limits=[]).ranks == ()


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_impossible_importance_is_refused(bad):
    with pytest.raises(NumericalError):
        allocate([1.0, bad], r_min=1, r_avg=2, r_max=3, limits=[9, 9])


@pytest.mark.parametrize(
    "change", [{"r_min": 0}, {"r_min": 3}, {"r_avg": 9}, {"limits": [9]}, {"limits": [9, 0]}], ids=str
)
def test_impossible_bounds_are_refused(change):
    with pytest.raises(ShapeError):
        allocate([1.0, 2.0], **{"r_min": 1, "r_avg": 2, "r_max": 3, "limits": [9, 9], **change})
