"""The decomposition against float64 LAPACK, its bounds, and the recovery of chosen directions."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from farss.errors import NumericalError, ShapeError
from farss.maths.spectrum import AccuracyWarning, decompose, directions


def conditioned(m: int, n: int, condition: float, seed: int = 0) -> torch.Tensor:
    """A float64 matrix with geometrically spaced singular values from 1 to 1 / condition."""
    generator = torch.Generator().manual_seed(seed)
    k = min(m, n)
    left = torch.linalg.qr(torch.randn(m, k, generator=generator, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(n, k, generator=generator, dtype=torch.float64))[0]
    sigma = torch.logspace(0, -math.log10(condition), k, dtype=torch.float64)
    return left * sigma @ right.T


def projector(columns: torch.Tensor) -> torch.Tensor:
    return columns @ columns.T


@pytest.mark.parametrize("condition", [1e3, 1e5, 1e7])
@pytest.mark.parametrize(("m", "n"), [(96, 64), (64, 96), (64, 64)])
def test_low_middle_and_high_subspaces_agree_with_float64_lapack(m, n, condition):
    weight = conditioned(m, n, condition)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AccuracyWarning)
        result = decompose(weight)
    U, sigma, Vh = torch.linalg.svd(weight, full_matrices=False)
    exact = U if result.side == "left" else Vh.T
    torch.testing.assert_close(result.sigma, sigma, rtol=1e-6, atol=0)
    for chosen in (slice(0, 16), slice(24, 40), slice(48, 64)):
        distance = (projector(result.basis[:, chosen]) - projector(exact[:, chosen])).abs().max()
        assert distance < 1e-4


def test_gram_route_falls_back_loudly():
    with pytest.warns(AccuracyWarning, match="more exact route"):
        result = decompose(conditioned(64, 64, 1e12))
    assert result.route == "gram->gesdd"


def test_named_routes_are_recorded():
    weight = conditioned(20, 30, 10)
    assert decompose(weight).route == "gram"
    assert decompose(weight, "polar").route == "polar"
    assert decompose(weight, "gesdd").route == "gesdd"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_residuals_are_measured_on_the_stored_basis(dtype):
    result = decompose(conditioned(40, 60, 100).to(dtype))
    stored = torch.float64 if dtype == torch.float64 else torch.float32
    assert result.basis.dtype == stored and result.sigma.dtype == torch.float64
    bound = 1e-13 if stored == torch.float64 else 1e-6
    assert result.orthogonality < bound and result.reconstruction < bound


@pytest.mark.parametrize(("m", "n", "side"), [(3, 5, "left"), (5, 3, "right"), (4, 4, "right"), (1, 6, "left")])
def test_basis_is_on_the_smaller_side(m, n, side):
    result = decompose(torch.randn(m, n, dtype=torch.float64))
    assert result.side == side and result.shape == (m, n) and result.basis.shape == (min(m, n),) * 2


@pytest.mark.parametrize("route", ["gram", "polar", "gesdd"])
def test_largest_entry_of_every_vector_is_positive(route):
    basis = decompose(torch.randn(30, 20), route).basis
    assert (basis.gather(0, basis.abs().argmax(0)[None]) > 0).all()


def test_sign_of_the_weight_does_not_change_the_basis():
    weight = torch.randn(30, 20, dtype=torch.float64)
    torch.testing.assert_close(decompose(weight).basis, decompose(-weight).basis)


@pytest.mark.parametrize("route", ["gram", "polar", "gesdd"])
@pytest.mark.filterwarnings("ignore::farss.maths.spectrum.AccuracyWarning")
def test_rank_deficient_weight_has_exact_zeros(route):
    weight = torch.randn(30, 5, dtype=torch.float64) @ torch.randn(5, 20, dtype=torch.float64)
    result = decompose(weight, route)
    assert (result.sigma[:5] > 0).all() and (result.sigma[5:] == 0).all()


def test_zero_weight_has_a_zero_spectrum():
    result = decompose(torch.zeros(4, 6))
    assert (result.sigma == 0).all() and result.reconstruction == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("m", "n"), [(24, 16), (16, 24)])
def test_all_directions_rebuild_the_weight(m, n, dtype):
    weight = conditioned(m, n, 1e4).to(dtype)
    U, sigma, V = directions(decompose(weight), weight, range(16))
    error = ((U * sigma) @ V.T - weight.double()).norm() / weight.double().norm()
    assert error < (1e-12 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize(("m", "n"), [(48, 32), (32, 48)])
@pytest.mark.parametrize("condition", [1e3, 1e5])
def test_chosen_low_part_equals_that_of_float64_lapack(m, n, condition):
    weight = conditioned(m, n, condition)
    U, sigma, V = directions(decompose(weight), weight, range(24, 32))
    exact_U, exact_sigma, exact_Vh = torch.linalg.svd(weight, full_matrices=False)
    exact = (exact_U[:, 24:] * exact_sigma[24:]) @ exact_Vh[24:]
    assert ((U * sigma) @ V.T - exact).norm() < 1e-4 * exact.norm()


@pytest.mark.parametrize("condition", [10.0, 1e4, 1e9])
@pytest.mark.filterwarnings("ignore::farss.maths.spectrum.AccuracyWarning")
def test_recovered_vectors_are_orthonormal(condition):
    weight = conditioned(48, 32, condition).float()
    U, _, V = directions(decompose(weight), weight, (0, 5, 20, 30, 31))
    for columns in (U, V):
        assert (columns.T @ columns - torch.eye(5, dtype=torch.float64)).abs().max() < 1e-10


@pytest.mark.filterwarnings("ignore::farss.maths.spectrum.AccuracyWarning")
def test_zero_directions_come_with_orthonormal_partners():
    weight = torch.randn(30, 5, dtype=torch.float64) @ torch.randn(5, 20, dtype=torch.float64)
    U, sigma, V = directions(decompose(weight), weight, (0, 4, 5, 19))
    assert sigma[2:].abs().max() == 0
    for columns in (U, V):
        assert (columns.T @ columns - torch.eye(4, dtype=torch.float64)).abs().max() < 1e-10


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_damaged_weight_is_refused(bad):
    weight = torch.ones(3, 3)
    weight[1, 1] = bad
    with pytest.raises(NumericalError, match="NaN or Inf"):
        decompose(weight)


@pytest.mark.parametrize("shape", [(3,), (0, 4), (2, 2, 2)])
def test_anything_but_a_matrix_is_refused(shape):
    with pytest.raises(ShapeError):
        decompose(torch.ones(shape))


def test_foreign_weight_and_foreign_index_are_refused():
    result = decompose(torch.randn(4, 6))
    with pytest.raises(ShapeError, match="another weight"):
        directions(result, torch.randn(6, 4), (0,))
    with pytest.raises(ShapeError, match="outside"):
        directions(result, torch.randn(4, 6), (4,))


@pytest.mark.gpu
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize(("m", "n"), [(24, 40), (40, 24)])
def test_a_spectrum_is_on_the_cpu_and_its_directions_where_the_weight_is(m, n, zero):
    torch.manual_seed(0)
    weight = torch.randn(m, n, dtype=torch.float64)
    if zero:
        weight[:, 0] = weight[0] = 0
    spectrum = decompose(weight.cuda())
    assert {spectrum.sigma.device.type, spectrum.basis.device.type} == {"cpu"}
    everything = range(len(spectrum.sigma))
    for where in (weight, weight.cuda()):
        left, sigma, right = directions(spectrum, where, everything)
        assert left.device.type == sigma.device.type == right.device.type == where.device.type
        assert float((left * sigma @ right.T - where).abs().max()) < 1e-12
