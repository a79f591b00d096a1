"""Cuts of a sequence in two, against values whose best cut is plain."""

from __future__ import annotations

import math

import numpy as np
import pytest

from farss.errors import NumericalError
from farss.maths.boundary import best_split, split_at


def test_a_step_is_found_and_explains_everything():
    found = best_split([5.0, 5.0, 1.0, 1.0, 1.0])
    assert found is not None
    assert (found.count, found.first, found.second) == (2, 5.0, 1.0) and found.gain == pytest.approx(1.0)


def test_the_gain_by_hand():
    cut = split_at([3.0, 1.0, 0.0], 1)
    assert cut.gain == pytest.approx(1 - 0.5 / (42 / 9))  # within 0.5; about the mean 4/3: 25/9 + 1/9 + 16/9
    assert cut.second == 0.5


def test_the_best_cut_is_the_best_of_all():
    values = np.random.default_rng(0).standard_normal(12).cumsum().tolist()
    found = best_split(values)
    assert found is not None
    assert found.gain == max(split_at(values, count).gain for count in range(1, 12))


def test_equal_values_gain_nothing_and_one_value_has_no_cut():
    found = best_split([2.0, 2.0, 2.0])
    assert found is not None and (found.count, found.gain) == (1, 0.0)
    assert best_split([1.0]) is None and best_split([]) is None


@pytest.mark.parametrize("count", [0, 3])
def test_a_cut_at_an_end_is_refused(count):
    with pytest.raises(NumericalError):
        split_at([1.0, 2.0, 3.0], count)


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(NumericalError):
        best_split([1.0, -math.inf])
