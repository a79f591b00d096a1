"""Decompositions behind start factors, against their definitions in float64."""

from __future__ import annotations

import pytest
import torch

from farss.errors import NumericalError, ShapeError
from farss.maths.contexts import INVERSE_TOLERANCE, context_components, damped, null_components, unit_trace
from farss.maths.randomised import leading_components


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moment_of(n: int, rows: int, seed: int = 1) -> torch.Tensor:
    x = draw(rows, n, seed=seed)
    return x.T @ x / rows


@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (25, 25)])
def test_randomised_components_are_the_leading_ones(shape):
    left, _, right = torch.linalg.svd(draw(*shape), full_matrices=False)
    weight = left * torch.logspace(0, -3, min(shape)).double() @ right
    up, sigma, down = leading_components(weight, 5, iterations=40)
    exact = torch.linalg.svd(weight, full_matrices=False)
    torch.testing.assert_close(sigma, exact.S[:5], rtol=1e-10, atol=0)
    torch.testing.assert_close(up * sigma @ down.T, exact.U[:, :5] * exact.S[:5] @ exact.Vh[:5], rtol=0, atol=1e-9)
    torch.testing.assert_close(down.T @ down, torch.eye(5).double(), rtol=0, atol=1e-12)


def test_iterations_sharpen_and_the_seed_decides():
    weight = draw(40, 30)
    exact = torch.linalg.svdvals(weight)[:6]
    errors = [float((leading_components(weight, 6, k)[1] - exact).abs().max()) for k in (0, 4, 64)]
    assert errors[0] > errors[1] > errors[2]
    assert torch.equal(leading_components(weight, 6, 1, seed=3)[0], leading_components(weight, 6, 1, seed=3)[0])
    assert not torch.equal(leading_components(weight, 6, 1, seed=3)[0], leading_components(weight, 6, 1, seed=4)[0])


def test_randomised_components_of_a_low_rank_matrix_are_zero_beyond_it():
    sigma = leading_components(draw(20, 3) @ draw(3, 30), 5, iterations=2)[1]
    assert int((sigma > 0).sum()) == 3
    with pytest.raises(ShapeError):
        leading_components(draw(4, 6), 5, 1)
    with pytest.raises(NumericalError):
        leading_components(torch.full((4, 6), torch.nan), 2, 1)


def test_the_trace_is_the_size():
    moment = moment_of(12, 40)
    assert float(unit_trace(7 * moment).trace()) == pytest.approx(12)
    with pytest.raises(NumericalError, match="empty"):
        unit_trace(torch.zeros(3, 3).double())


@pytest.mark.parametrize("rows", [5, 60])
def test_damping_adds_a_hundredth_of_the_mean_and_inverts(rows):
    moment = moment_of(20, rows)
    whole, inverse = damped(moment)
    added = 0.01 * moment.diagonal().mean() * torch.eye(20).double()
    torch.testing.assert_close(whole, moment + added)
    torch.testing.assert_close(whole @ inverse, torch.eye(20).double(), rtol=0, atol=1e-9)
    assert all(torch.equal(*pair) for pair in zip(damped(moment, "fixed"), (whole, inverse), strict=True))


def test_damping_doubles_until_the_inverse_is_accurate():
    singular = moment_of(40, 10)
    lowered = singular.diagonal().mean() * 0.01 / 1.01  # the first damping lifts it to the singular one exactly
    bad = singular - lowered * torch.eye(40).double()
    with pytest.raises(NumericalError, match="cannot be inverted"):
        damped(bad, "fixed")
    whole, inverse = damped(bad)
    assert float((whole @ inverse - torch.eye(40).double()).norm()) < INVERSE_TOLERANCE
    torch.testing.assert_close(whole, bad + 0.02 * bad.diagonal().mean() * torch.eye(40).double())
    with pytest.raises(NumericalError, match="cannot be inverted"):
        damped(torch.full((3, 3), torch.nan))


@pytest.mark.parametrize("shape", [(14, 9), (9, 14)])
def test_all_components_rebuild_the_weight(shape):
    weight, (whole, inverse) = draw(*shape), damped(moment_of(shape[1], 40))
    left, sigma, right = context_components(weight, whole, inverse, min(shape), "high")
    torch.testing.assert_close(left * sigma @ right.T, weight, rtol=0, atol=1e-9)


def test_low_and_high_components_are_the_two_ends():
    weight, (whole, inverse) = draw(10, 12), damped(moment_of(12, 40))
    exact = torch.linalg.svd(weight @ whole, full_matrices=False)
    high, low = (context_components(weight, whole, inverse, 4, end) for end in ("high", "low"))
    torch.testing.assert_close(high[1], exact.S[:4])
    torch.testing.assert_close(low[1], exact.S[-4:])
    for left, sigma, right in (high, low):  # a component seen through C is one of W C
        torch.testing.assert_close((left * sigma @ right.T) @ whole, left @ left.T @ weight @ whole)
    with pytest.raises(ShapeError):
        context_components(weight, *damped(moment_of(11, 40)), 4, "low")


def test_zero_components_are_left_out():
    weight, (whole, inverse) = draw(10, 3) @ draw(3, 12), damped(moment_of(12, 40))
    assert context_components(weight, whole, inverse, 5, "low")[1].shape == (3,)
    with pytest.raises(NumericalError, match="zero"):
        context_components(torch.zeros(10, 12), whole, inverse, 5, "low")


def test_null_components_are_the_projected_weight_and_miss_the_inputs():
    x = draw(6, 16)  # six samples leave a null space of ten dimensions
    weight, moment = draw(12, 16), x.T @ x / 6
    left, sigma, right = null_components(weight, moment, 5)
    space = torch.linalg.eigh(moment).eigenvectors[:, :5]
    torch.testing.assert_close(left * sigma @ right.T, weight @ space @ space.T, rtol=0, atol=1e-10)
    torch.testing.assert_close(left.T @ left, torch.eye(5).double(), rtol=0, atol=1e-10)
    assert float((x @ right).abs().max()) < 1e-7 * float(x.abs().max())
    assert float((draw(6, 16, seed=5) @ right).abs().max()) > 0.1
    with pytest.raises(ShapeError):
        null_components(weight.T, moment, 5)
