"""The price of an update: against dense float64, against finite differences, for every form of the moments."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck

from farss.errors import NumericalError, ShapeError
from farss.maths.quadratic import Dense, Sampled, Spiked, Start, damped, low_rank_price, price

M, N, R, SCALE = 14, 11, 3, 1.7


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def sides(kind: str) -> tuple[object, object]:
    if kind == "sampled":
        return Sampled(draw(40, M, seed=1), 0.3), Sampled(draw(50, N, seed=2), 0.2)
    left, right = draw(40, M, seed=1), draw(50, N, seed=2)
    left, right = left.t() @ left / 40, right.t() @ right / 50
    return (Dense(left), Dense(right)) if kind == "dense" else (Spiked.of(left, 4), Spiked.of(right, 4))


def dense(side: object, size: int) -> torch.Tensor:
    return side.times(torch.eye(size, dtype=torch.float64))


def by_definition(update: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> float:
    """1/2 sum over i, j, k, l of S_d[i, k] dW[k, l] S_h[l, j] dW[i, j], and over all tokens alike."""
    return float(0.5 * torch.einsum("ik,kl,lj,ij->", left, update, right, update))


@pytest.mark.parametrize("kind", ["dense", "spiked", "sampled"])
@pytest.mark.parametrize("paired", [False, True])
def test_the_price_is_that_of_the_whole_update(kind, paired):
    left, right = sides(kind)
    up, down, up0, down0 = draw(M, R, seed=3), draw(R, N, seed=4), draw(M, R, seed=5), draw(R, N, seed=6)
    start = Start.of(up0, down0, left, right) if paired else None
    found = low_rank_price(up, down, left, right, scale=SCALE, start=start)
    update = SCALE * ((up0 + up) @ (down0 + down) - up0 @ down0) if paired else SCALE * up @ down
    wanted = by_definition(update, dense(left, M), dense(right, N))
    assert float(found) == pytest.approx(wanted, rel=1e-12)
    assert float(price(update, left, right)) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("kind", ["dense", "spiked", "sampled"])
@pytest.mark.parametrize("paired", [False, True])
def test_the_gradient_is_that_of_finite_differences(kind, paired):
    left, right = sides(kind)
    start = Start.of(draw(M, R, seed=5), draw(R, N, seed=6), left, right) if paired else None
    factors = [draw(M, R, seed=3).requires_grad_(), draw(R, N, seed=4).requires_grad_()]
    assert gradcheck(lambda b, a: low_rank_price(b, a, left, right, scale=SCALE, start=start), factors, rtol=1e-8)
    assert gradcheck(lambda w: price(w, left, right), [draw(M, N, seed=7).requires_grad_()], rtol=1e-8)


def test_a_small_step_from_a_large_start_is_priced_in_float32():
    left, right = (Dense(side.matrix.float()) for side in sides("dense"))
    up0, down0 = 100 * draw(M, R, seed=5).float(), 100 * draw(R, N, seed=6).float()
    up, down = 1e-4 * draw(M, R, seed=3).float(), 1e-4 * draw(R, N, seed=4).float()
    found = low_rank_price(up, down, left, right, start=Start.of(up0, down0, left, right))
    double = [t.double() for t in (up, down, up0, down0)]
    update = (double[2] + double[0]) @ (double[3] + double[1]) - double[2] @ double[3]
    wanted = by_definition(update, left.matrix.double(), right.matrix.double())
    assert float(found) == pytest.approx(wanted, rel=1e-4)


def test_spikes_and_diagonal_are_exact_where_all_directions_are_kept():
    matrix = draw(40, M, seed=1)
    matrix = matrix.t() @ matrix
    torch.testing.assert_close(dense(Spiked.of(matrix, M), M), matrix)
    few = Spiked.of(matrix, 3)
    torch.testing.assert_close(few.diagonal(), matrix.diagonal())
    torch.testing.assert_close(dense(few, M).diagonal(), matrix.diagonal())


def test_damping_is_a_share_of_the_mean_and_needs_one():
    matrix = torch.diag(torch.tensor([1.0, 3.0], dtype=torch.float64))
    torch.testing.assert_close(damped(matrix, 0.5).diagonal(), torch.tensor([2.0, 4.0], dtype=torch.float64))
    for bad in (torch.zeros(2, 2), torch.full((2, 2), torch.nan)):
        with pytest.raises(NumericalError, match="zero or not finite"):
            damped(bad, 0.1)


def test_moments_of_another_module_are_refused():
    left, right = sides("dense")
    with pytest.raises(ShapeError, match="another module"):
        low_rank_price(draw(M, R, seed=1), draw(R, N, seed=2), right, left)
    with pytest.raises(ShapeError, match="another module"):
        price(draw(N, M, seed=1), left, right)
    with pytest.raises(ShapeError, match="one rank"):
        low_rank_price(draw(M, R, seed=1), draw(R + 1, N, seed=2), left, right)
