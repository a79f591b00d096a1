"""Scores and importance against explicit gradients, and both sides against each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from farss.errors import NumericalError, ShapeError
from farss.maths.scores import default_shallow_layers, score_directions
from farss.maths.spectrum import Spectrum, decompose


def sample(m: int, n: int, tokens: int = 50, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(m, n, generator=generator, dtype=torch.float64)
    h = torch.randn(tokens, n, generator=generator, dtype=torch.float64) * torch.logspace(0, 2, n, dtype=torch.float64)
    delta = torch.randn(tokens, m, generator=generator, dtype=torch.float64)
    return weight, h, delta


def second_moment(rows: torch.Tensor) -> torch.Tensor:
    return rows.T @ rows / len(rows)


def both_sides(weight, h, delta):
    """Scores from the left and from the right side, with full thin SVDs (needs a square weight)."""
    U, sigma, Vh = torch.linalg.svd(weight)
    shape = tuple(weight.shape)
    left = Spectrum(sigma, U, "left", shape, "gesdd", 0.0, 0.0)
    right = Spectrum(sigma, Vh.T.contiguous(), "right", shape, "gesdd", 0.0, 0.0)
    return (
        score_directions(left, second_moment(h @ weight.T), second_moment(delta), shape),
        score_directions(right, second_moment(h), second_moment(delta @ weight), shape),
    )


def scores_of(weight, h, delta):
    spectrum = decompose(weight)
    left = spectrum.side == "left"
    first = second_moment(h @ weight.T) if left else second_moment(h)
    second = second_moment(delta) if left else second_moment(delta @ weight)
    return spectrum, score_directions(spectrum, first, second, tuple(weight.shape))


def test_left_and_right_routes_agree():
    left, right = both_sides(*sample(12, 12))
    for name in ("log_s", "lam", "gam"):
        torch.testing.assert_close(getattr(left, name), getattr(right, name), rtol=1e-10, atol=1e-10)
    assert left.importance == pytest.approx(right.importance, rel=1e-10)


@pytest.mark.parametrize(("m", "n"), [(9, 14), (14, 9), (10, 10)])
def test_scores_equal_their_definition(m, n):
    weight, h, delta = sample(m, n)
    _, scores = scores_of(weight, h, delta)
    U, sigma, Vh = torch.linalg.svd(weight, full_matrices=False)
    lam, gam = (h @ Vh.T).square().mean(0), (delta @ U).square().mean(0)
    torch.testing.assert_close(scores.lam, lam, rtol=1e-8, atol=0)
    torch.testing.assert_close(scores.gam, gam, rtol=1e-8, atol=0)
    torch.testing.assert_close(scores.log_s.exp(), sigma**2 * lam * gam, rtol=1e-8, atol=0)


@pytest.mark.parametrize(("m", "n"), [(9, 14), (14, 9)])
def test_importance_is_the_kronecker_fisher_quadratic_form_of_the_weight(m, n):
    weight, h, delta = sample(m, n)
    _, scores = scores_of(weight, h, delta)
    fisher = torch.kron(second_moment(h), second_moment(delta))
    column_stacked = weight.T.reshape(-1)
    assert scores.importance == pytest.approx(float(column_stacked @ fisher @ column_stacked) / (m * n), rel=1e-10)


@pytest.mark.parametrize(("m", "n"), [(9, 14), (14, 9)])
def test_scores_add_up_to_the_diagonal_part_of_the_importance(m, n):
    weight, h, delta = sample(m, n)
    _, scores = scores_of(weight, h, delta)
    U, sigma, Vh = torch.linalg.svd(weight, full_matrices=False)
    coupled = torch.outer(sigma, sigma) * (U.T @ second_moment(delta) @ U) * (Vh @ second_moment(h) @ Vh.T)
    assert float(coupled.sum()) == pytest.approx(scores.importance * m * n, rel=1e-10)
    assert float(scores.log_s.exp().sum()) == pytest.approx(float(coupled.trace()), rel=1e-10)


def test_loss_scale_shifts_all_scores_alike_even_far_outside_float_range():
    weight, h, delta = sample(8, 8)
    plain, tiny = scores_of(weight, h, delta)[1], scores_of(weight, h, delta * 1e-150)[1]
    torch.testing.assert_close(plain.log_s - tiny.log_s, torch.full((8,), 300 * np.log(10.0)).double())


def test_zero_singular_values_have_zero_scores_and_finite_parts():
    weight = torch.randn(12, 3, dtype=torch.float64) @ torch.randn(3, 8, dtype=torch.float64)
    _, h, delta = sample(12, 8)
    spectrum = decompose(weight, "gesdd")
    scores = score_directions(spectrum, second_moment(h), second_moment(delta @ weight), (12, 8))
    assert torch.isneginf(scores.log_s[3:]).all() and torch.isfinite(scores.log_s[:3]).all()
    assert torch.isfinite(scores.lam).all() and torch.isfinite(scores.gam).all()


def test_wrong_sizes_and_damaged_moments_are_refused():
    weight, h, delta = sample(9, 6)
    spectrum = decompose(weight)
    first, second = second_moment(h), second_moment(delta @ weight)
    with pytest.raises(ShapeError):
        score_directions(spectrum, second_moment(delta), second, (9, 6))
    with pytest.raises(ShapeError):
        score_directions(spectrum, first, second, (6, 9))
    with pytest.raises(NumericalError):
        score_directions(spectrum, first * torch.nan, second, (9, 6))


@pytest.mark.parametrize(("layers", "shallow"), [(0, 0), (1, 1), (2, 1), (12, 2), (30, 6), (32, 6), (40, 8)])
def test_default_number_of_shallow_layers(layers, shallow):
    assert default_shallow_layers(layers) == shallow
