from __future__ import annotations

import pytest
import torch

from farss.errors import NumericalError, ShapeError
from farss.maths.recompress import recompress


def factors(m: int, inner: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    make = torch.Generator().manual_seed(0)
    up = torch.randn(m, inner, generator=make, dtype=torch.float64)
    return up, torch.randn(inner, n, generator=make, dtype=torch.float64)


@pytest.mark.parametrize(("m", "inner", "n"), [(12, 6, 9), (5, 8, 20), (20, 8, 5), (4, 4, 4)])
def test_equals_the_truncated_decomposition_of_the_product(m, inner, n):
    up, down = factors(m, inner, n)
    sigma = torch.linalg.svdvals(up @ down)
    for rank in range(1, min(m, n) + 1):
        result = recompress(up, down, rank)
        difference = torch.linalg.matrix_norm(result.up @ result.down - up @ down)
        assert difference.item() == pytest.approx(result.error, abs=1e-10)
        assert result.error == pytest.approx(sigma[rank:].norm().item(), abs=1e-10)
        assert result.norm == pytest.approx(sigma.norm().item())


def test_a_rank_beyond_the_product_is_exact_and_padded_with_zeros():
    up, down = factors(6, 2, 5)
    result = recompress(up, down, 4)
    assert result.up.shape == (6, 4)
    assert result.down.shape == (4, 5)
    assert not result.up[:, 2:].any() and not result.down[2:].any()
    torch.testing.assert_close(result.up @ result.down, up @ down)
    assert result.error < 1e-12


def test_a_difference_of_equal_products_is_zero():
    up, down = factors(6, 3, 7)
    result = recompress(torch.cat([up, -up], 1), torch.cat([down, down], 0), 2)
    torch.testing.assert_close(result.up @ result.down, torch.zeros(6, 7, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("rank", [0, -1])
def test_impossible_ranks_are_refused(rank):
    with pytest.raises(ShapeError):
        recompress(*factors(4, 2, 4), rank)


def test_factors_that_do_not_multiply_are_refused():
    with pytest.raises(ShapeError, match="do not multiply"):
        recompress(torch.ones(3, 2), torch.ones(3, 3), 1)


def test_not_a_number_is_refused():
    with pytest.raises(NumericalError):
        recompress(torch.full((3, 2), float("nan")), torch.ones(2, 3), 1)
