"""The routes against float64 LAPACK: the chosen subspaces agree within a stated bound, or the route is refused.

The bound is that of the module: directions cut off where sigma changes by the factor rho are turned by at most
`coherence / (rho - 1 / rho)`. `STORAGE` is added for the basis being kept in float32.
"""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from farss.maths import routes
from farss.maths.routes import Frame, frame, gram, halley_weights, polar, polar_factor
from farss.maths.spectrum import COHERENCE_TOLERANCE, AccuracyWarning, decompose

SHAPES = [(192, 128), (128, 192), (128, 128)]
CHOSEN = 16
STORAGE = 1e-6
WIDTH = {"low": slice(-CHOSEN, None), "high": slice(0, CHOSEN)}


def conditioned(m: int, n: int, condition: float, seed: int = 0) -> torch.Tensor:
    """A float64 matrix with geometrically spaced singular values from 1 to 1 / condition."""
    generator = torch.Generator().manual_seed(seed)
    k = min(m, n)
    left, right = (
        torch.linalg.qr(torch.randn(size, k, generator=generator, dtype=torch.float64))[0] for size in (m, n)
    )
    return left * torch.logspace(0, -math.log10(condition), k, dtype=torch.float64) @ right.T


def distance(one: torch.Tensor, two: torch.Tensor) -> float:
    """The largest sine of an angle between two subspaces."""
    return float(torch.linalg.matrix_norm(one @ one.T - two @ two.T, ord=2))


def bound(condition: float, k: int, coherence: float = COHERENCE_TOLERANCE) -> float:
    rho = condition ** (1 / (k - 1))
    return coherence / (rho - 1 / rho) + STORAGE


def exact_basis(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    U, sigma, Vh = torch.linalg.svd(weight.double(), full_matrices=False)
    return (U if weight.shape[0] < weight.shape[1] else Vh.T), sigma


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("route", ["gram", "polar", "gesdd"])
@pytest.mark.parametrize("condition", [1e3, 1e5, 1e7])
@pytest.mark.parametrize(("m", "n"), SHAPES)
@pytest.mark.filterwarnings("ignore::farss.maths.spectrum.AccuracyWarning")
def test_both_ends_of_every_spectrum_agree_with_float64_lapack(m, n, condition, route, dtype):
    weight = conditioned(m, n, condition).to(dtype)
    found = decompose(weight, route)
    exact, sigma = exact_basis(weight)
    torch.testing.assert_close(found.sigma, sigma, rtol=COHERENCE_TOLERANCE, atol=0)
    for end, chosen in WIDTH.items():
        turned = distance(found.basis[:, chosen].double(), exact[:, chosen])
        assert turned < bound(condition, min(m, n)), (end, found.route)


@pytest.mark.parametrize(
    ("route", "dtype", "condition", "used"),
    [
        ("gram", torch.float32, 1e3, "gram"),
        ("gram", torch.float32, 1e5, "gram"),
        ("gram", torch.float32, 1e7, "gram->gesdd"),
        ("polar", torch.float32, 1e3, "polar"),
        ("polar", torch.float32, 1e5, "polar"),
        ("polar", torch.float32, 1e7, "polar->gram->gesdd"),
        ("polar", torch.float64, 1e5, "polar"),
        ("polar", torch.float64, 1e7, "polar"),
        ("polar", torch.float64, 1e13, "polar->gesdd"),
    ],
)
def test_a_route_is_kept_where_it_is_accurate_and_left_loudly_where_not(route, dtype, condition, used):
    weight = conditioned(192, 128, condition).to(dtype)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert decompose(weight, route).route == used
    left = [str(each.message) for each in said if issubclass(each.category, AccuracyWarning)]
    assert [f"`{name}`" in message for name, message in zip(used.split("->"), left, strict=False)] == [True] * len(left)
    assert len(left) == used.count("->")


@pytest.mark.parametrize("condition", [1e3, 1e5, 1e7])
@pytest.mark.parametrize(("m", "n"), [(192, 128), (128, 128)])
def test_a_float32_gram_matrix_is_refused_by_the_check_that_accepts_float64(m, n, condition):
    weight = conditioned(m, n, condition)
    assert gram(weight, torch.float32).coherence > 100 * COHERENCE_TOLERANCE
    assert polar(weight, torch.float64).coherence < COHERENCE_TOLERANCE
    if condition < 1e6:
        assert gram(weight).coherence < COHERENCE_TOLERANCE


@pytest.mark.parametrize("condition", [1e3, 1e5])
def test_the_float32_gram_matrix_would_have_chosen_other_low_directions(condition):
    """What the refusal is for: the high end is right to seven digits while the low end is lost."""
    weight = conditioned(192, 128, condition)
    exact, found = exact_basis(weight)[0], gram(weight, torch.float32).basis
    assert distance(found[:, WIDTH["high"]], exact[:, WIDTH["high"]]) < 1e-4
    assert distance(found[:, WIDTH["low"]], exact[:, WIDTH["low"]]) > 0.1


@pytest.mark.parametrize("angle", [1e-6, 1e-3, 0.1])
@pytest.mark.parametrize("pair", [(0, 1), (0, 63), (30, 40), (62, 63)])
def test_coherence_shows_every_small_turn_of_one_pair(pair, angle):
    """A turn of v_i and v_j by `angle` gives the cosine angle * (s_i / s_j - s_j / s_i), and the module's bound."""
    weight = conditioned(96, 64, 1e3)
    basis, sigma = exact_basis(weight)
    i, j = pair
    turned = basis.clone()
    turned[:, i] = math.cos(angle) * basis[:, i] + math.sin(angle) * basis[:, j]
    turned[:, j] = math.cos(angle) * basis[:, j] - math.sin(angle) * basis[:, i]
    rho = float(sigma[i] / sigma[j])
    assert frame(weight, turned).coherence > min(angle * (rho - 1 / rho), 0.5)


def test_sigma_is_within_the_coherence_whatever_the_basis():
    weight = conditioned(96, 64, 1e4)
    sigma = exact_basis(weight)[1]
    for dtype in (torch.float32, torch.float64):
        found: Frame = gram(weight, dtype)
        if found.coherence < 1:
            assert float(((found.sigma - sigma) / sigma).abs().max()) < found.coherence + 1e-12
    turned = torch.linalg.qr(torch.eye(64).double() + 1e-4 * torch.randn(64, 64, dtype=torch.float64))[0]
    found = frame(weight, exact_basis(weight)[0] @ turned)
    assert float(((found.sigma - sigma) / sigma).abs().max()) < found.coherence


def test_polishing_mends_what_float32_leaves(monkeypatch):
    weight = conditioned(192, 128, 1e4)
    polished = polar(weight, torch.float32)
    monkeypatch.setattr(routes, "POLISHING_STEPS", 0)
    raw = polar(weight, torch.float32)
    assert raw.coherence > COHERENCE_TOLERANCE > 10 * polished.coherence
    identity = torch.eye(128, dtype=torch.float64)
    for found in (raw, polished):
        assert float((identity - found.basis.T @ found.basis).abs().max()) < 1e-13


@pytest.mark.parametrize(("dtype", "steps", "error"), [(torch.float32, 4, 1e-5), (torch.float64, 6, 1e-13)])
@pytest.mark.parametrize("condition", [1.0, 1e3, 1e6])
def test_polar_factor_is_orthonormal_and_leaves_a_symmetric_rest(condition, dtype, steps, error):
    weight = conditioned(64, 64, condition)
    weight = (weight / weight.norm()).to(dtype)
    Q = polar_factor(weight).double()
    P = Q.T @ weight.double()
    U, _, Vh = torch.linalg.svd(weight.double())
    assert len(list(halley_weights(torch.finfo(dtype).eps))) == steps
    assert float((Q.T @ Q - torch.eye(64)).abs().max()) < error
    assert float((P - P.T).abs().max()) < error and float(torch.linalg.eigvalsh(P + P.T).min()) > -error
    assert float((P - (U @ Vh).T @ weight.double()).abs().max()) < error


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_polar_takes_zero_and_huge_and_tiny_weights(dtype):
    assert (polar(torch.zeros(6, 4, dtype=torch.float64), dtype).sigma == 0).all()
    weight = conditioned(24, 16, 10)
    for factor in (1e-60, 1e60):
        torch.testing.assert_close(
            polar(factor * weight, dtype).sigma / factor, exact_basis(weight)[1], rtol=1e-10, atol=0
        )


@pytest.mark.gpu
@pytest.mark.parametrize("route", ["gram", "polar", "gesdd"])
@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_the_routes_agree_on_the_accelerator(m, n, route):
    weight = conditioned(m, n, 1e4).float()
    found = decompose(weight.cuda(), route)
    exact, sigma = exact_basis(weight)
    assert found.route == route
    torch.testing.assert_close(found.sigma, sigma, rtol=COHERENCE_TOLERANCE, atol=0)
    for chosen in WIDTH.values():
        assert distance(found.basis[:, chosen].double(), exact[:, chosen]) < bound(1e4, min(m, n))
