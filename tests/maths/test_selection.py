"""Which directions are chosen."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farss.errors import NumericalError, ShapeError
from farss.maths.selection import select

LOG_S = np.log([8.0, 3.0, 5.0, 1.0, 2.0])
SIGMA = np.array([5.0, 4.0, 3.0, 2.0, 1.0])


@pytest.mark.parametrize(("direction", "chosen"), [("high", (0, 2)), ("low", (3, 4)), ("mid", (1, 4))])
def test_named_directions(direction, chosen):
    assert select(LOG_S, SIGMA, 2, direction) == chosen


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=30, unique=True), st.data())
def test_low_and_high_partition_the_spectrum(scores, data):
    rank = data.draw(st.integers(1, len(scores) - 1))
    sigma = np.arange(len(scores), 0, -1)
    low, high = select(scores, sigma, rank, "low"), select(scores, sigma, len(scores) - rank, "high")
    assert sorted(low + high) == list(range(len(scores)))


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=30), st.sampled_from(["low", "high", "mid", "random"]))
def test_full_rank_takes_everything_in_order(scores, direction):
    assert select(scores, np.ones(len(scores)), len(scores), direction) == tuple(range(len(scores)))


@pytest.mark.parametrize("direction", ["low", "high"])
def test_ties_keep_the_order_of_the_spectrum(direction):
    assert select(np.zeros(6), np.ones(6), 3, direction) == (0, 1, 2)


def test_zero_scores_are_the_lowest():
    assert select([0.0, -math.inf, -3.0], [3.0, 2.0, 1.0], 1, "low") == (1,)


def test_zero_singular_values_are_left_out():
    log_s, sigma = [1.0, 0.0, -math.inf, -math.inf], [2.0, 1.0, 0.0, 0.0]
    assert select(log_s, sigma, 1, "low") == (1,)
    assert select(log_s, sigma, 3, "low") == (0, 1)
    assert select(log_s, sigma, 2, "low", exclude_zero=False) == (2, 3)


def test_random_set_is_seeded():
    sets = [select(np.zeros(50), np.ones(50), 5, "random", seed=s) for s in (0, 0, 1)]
    assert sets[0] == sets[1] != sets[2] and len(set(sets[0])) == 5


@pytest.mark.parametrize("rank", [0, 6])
def test_impossible_rank_is_refused(rank):
    with pytest.raises(ShapeError):
        select(LOG_S, SIGMA, rank, "low")


def test_nan_zero_matrix_and_unequal_lengths_are_refused():
    with pytest.raises(NumericalError):
        select([math.nan, 1.0], [1.0, 1.0], 1, "low")
    with pytest.raises(NumericalError):
        select([-math.inf], [0.0], 1, "low")
    with pytest.raises(ShapeError):
        select([1.0], [1.0, 1.0], 1, "low")
