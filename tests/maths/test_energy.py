"""Energy shares and counts of directions, against sums done by hand and singular values of the rows themselves."""

from __future__ import annotations

import math

import pytest
import torch

from farss.errors import NumericalError, ShapeError
from farss.maths.energy import directions_for_share, eigenvalue_share, energy_share


def test_the_share_of_the_top_values_by_hand():
    sigma = torch.tensor([3.0, 2.0, 1.0, 1.0, 1.0])
    assert energy_share(sigma, 1) == pytest.approx(9 / 16)
    assert energy_share(sigma.flip(0), 2) == pytest.approx(13 / 16)
    assert energy_share(sigma, 5) == energy_share(sigma, 99) == 1.0
    assert energy_share(torch.ones(20)) == pytest.approx(5 / 20)


def test_the_share_does_not_depend_on_the_scale():
    sigma = torch.rand(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert energy_share(sigma) == pytest.approx(energy_share(sigma * 1e-9))


def test_a_zero_spectrum_has_no_share():
    assert math.isnan(energy_share(torch.zeros(3))) and math.isnan(eigenvalue_share(torch.zeros(3, 3)))


def test_a_second_moment_has_the_share_of_its_rows_singular_values():
    rows = torch.randn(40, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows[:, 0] *= 10
    expected = energy_share(torch.linalg.svdvals(rows), 3)
    assert eigenvalue_share(rows.T @ rows / 40, 3) == pytest.approx(expected, rel=1e-12)
    few = rows[:4]  # fewer rows than columns: eigenvalues that should be zero may round below it
    assert eigenvalue_share(few.T @ few, 4) == pytest.approx(1.0)


def test_directions_are_counted_from_the_largest_score():
    scores = torch.tensor([1.0, 6.0, 2.0, 1.0], dtype=torch.float64)
    counts = [directions_for_share(scores.log(), share) for share in (0.1, 0.59, 0.61, 0.79, 0.81, 1.0)]
    assert counts == [1, 1, 2, 2, 3, 4]


def test_scores_outside_the_range_of_floats_are_counted():
    logs = torch.tensor([2000.0, 2000.0, -3000.0, -math.inf], dtype=torch.float64)
    assert directions_for_share(logs, 0.9) == 2 and directions_for_share(logs, 0.5) == 1
    assert directions_for_share(torch.full((3,), -math.inf), 0.9) == 0


@pytest.mark.parametrize("values", [torch.tensor([1.0, math.nan]), torch.tensor([1.0, -1.0]), torch.tensor([math.inf])])
def test_impossible_singular_values_are_refused(values):
    with pytest.raises(NumericalError):
        energy_share(values)


@pytest.mark.parametrize("values", [torch.tensor([math.nan, 1.0]), torch.tensor([math.inf])])
def test_impossible_scores_are_refused(values):
    with pytest.raises(NumericalError):
        directions_for_share(values, 0.9)


def test_wrong_shapes_are_refused():
    with pytest.raises(ShapeError):
        energy_share(torch.ones(2, 2))
    with pytest.raises(ShapeError):
        energy_share(torch.ones(2), 0)
    with pytest.raises(ShapeError):
        eigenvalue_share(torch.ones(2, 3))
    with pytest.raises(NumericalError):
        eigenvalue_share(torch.full((2, 2), math.nan))
    with pytest.raises(ShapeError):
        directions_for_share(torch.ones(3), 0.0)
