"""Steps on the Stiefel manifold against their dense definitions in float64."""

from __future__ import annotations

import pytest
import torch

from farss.errors import ShapeError
from farss.maths import stiefel

EXACT = 1e-14
SIZES = [(12, 3), (7, 7), (40, 5), (5, 1)]
LENGTHS = [1e-3, 0.3, 20.0]


@pytest.fixture(params=SIZES, ids=str)
def point(request):
    """(X, M) with orthonormal X and a direction M."""
    generator = torch.Generator().manual_seed(1)
    x = stiefel.orthonormal(torch.randn(request.param, generator=generator, dtype=torch.float64))
    return x, torch.randn(request.param, generator=generator, dtype=torch.float64)


def skew(x, direction):
    inward = direction - 0.5 * x @ (x.T @ direction)
    return inward @ x.T - x @ inward.T


def test_orthonormal_is_the_q_factor_with_positive_diagonal(point):
    _, matrix = point
    basis = stiefel.orthonormal(matrix)
    triangle = basis.T @ matrix
    assert stiefel.orthogonality_error(basis) < EXACT
    assert bool((triangle.diagonal() > 0).all())
    torch.testing.assert_close(triangle, triangle.triu(), atol=1e-13, rtol=0)


def test_a_zero_on_the_diagonal_counts_as_positive():
    basis = stiefel.orthonormal(torch.zeros(4, 2, dtype=torch.float64))
    assert stiefel.orthogonality_error(basis) < EXACT


def test_the_projection_is_tangent_idempotent_and_orthogonal(point):
    x, z = point
    projected = stiefel.tangent(x, z)
    inner = x.T @ projected
    torch.testing.assert_close(inner, -inner.T, atol=EXACT, rtol=0)
    torch.testing.assert_close(stiefel.tangent(x, projected), projected, atol=EXACT, rtol=0)
    assert abs(float(((z - projected) * projected).sum())) < 1e-12
    assert float(stiefel.tangent(x, 0.3 * x).abs().max()) < EXACT  # weight decay would not move x


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("retraction", ["polar", "qr"])
def test_retractions_return_to_the_manifold(point, retraction, length):
    x, z = point
    y = stiefel.retract(x, length * stiefel.tangent(x, z), retraction)
    assert stiefel.orthogonality_error(y) < EXACT


@pytest.mark.parametrize("length", LENGTHS)
def test_the_polar_retraction_is_the_nearest_point_by_svd(point, length):
    x, z = point
    step = length * stiefel.tangent(x, z)
    left, _, right = torch.linalg.svd(x + step, full_matrices=False)
    torch.testing.assert_close(stiefel.retract(x, step), left @ right, atol=1e-12, rtol=0)


@pytest.mark.parametrize("length", LENGTHS)
def test_the_low_rank_cayley_step_is_the_dense_one(point, length):
    x, direction = point
    generator, identity = skew(x, direction), torch.eye(len(x), dtype=torch.float64)
    dense = torch.linalg.solve(identity + length / 2 * generator, (identity - length / 2 * generator) @ x)
    y = stiefel.cayley(x, direction, length)
    torch.testing.assert_close(y, dense, atol=1e-12, rtol=0)
    assert stiefel.orthogonality_error(y) < 1e-13


def test_the_cayley_generator_is_the_dense_one(point):
    x, direction = point
    generator = skew(x, direction)
    y = stiefel.cayley(x, direction, 0.5)
    torch.testing.assert_close(stiefel.cayley_tangent(x, direction, y), generator @ y, atol=1e-13, rtol=0)
    torch.testing.assert_close(stiefel.cayley_tangent(x, direction, x), stiefel.tangent(x, direction))
    assert float(stiefel.cayley_norm(x, direction)) == pytest.approx(float(generator.norm()), rel=1e-12)


def test_all_retractions_agree_to_first_order(point):
    x, z = point
    step = stiefel.tangent(x, z) / z.norm()

    def gaps(t):
        ways = [stiefel.retract(x, -t * step), stiefel.retract(x, -t * step, "qr"), stiefel.cayley(x, step, t)]
        return torch.stack([(way - (x - t * step)).norm() for way in ways])

    coarse, fine = gaps(1e-2), gaps(1e-3)
    assert bool((coarse < 1e-3).all())
    assert bool((fine <= 0.02 * coarse + 1e-15).all())  # quadratic: a tenth of the step, a hundredth of the gap


def test_batches_are_treated_one_by_one(point):
    x, z = point
    pair_x, pair_z = torch.stack([x, -x]), torch.stack([z, 2 * z])
    lengths = torch.tensor([0.3, 0.7])
    together = [stiefel.retract(pair_x, pair_z), stiefel.retract(pair_x, pair_z, "qr")]
    together += [stiefel.cayley(pair_x, pair_z, lengths)]
    alone = [
        torch.stack([stiefel.retract(a, b) for a, b in zip(pair_x, pair_z, strict=True)]),
        torch.stack([stiefel.retract(a, b, "qr") for a, b in zip(pair_x, pair_z, strict=True)]),
        torch.stack([stiefel.cayley(a, b, float(t)) for a, b, t in zip(pair_x, pair_z, lengths, strict=True)]),
    ]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-7, rtol=0)  # lengths passed through float32


@pytest.mark.parametrize("way", ["polar", "qr", "cayley"])
def test_descent_on_a_quadratic_finds_the_leading_subspace(way):
    """Of `-tr(X'AX) / 2` the minimum over the manifold is minus half the sum of the largest eigenvalues."""
    generator = torch.Generator().manual_seed(2)
    root = torch.randn(9, 9, generator=generator, dtype=torch.float64)
    matrix = root @ root.T
    x = stiefel.orthonormal(torch.randn(9, 2, generator=generator, dtype=torch.float64))
    for _ in range(2000):
        gradient, rate = -matrix @ x, 0.02
        if way == "cayley":
            x = stiefel.cayley(x, gradient, rate)
        else:
            x = stiefel.retract(x, -rate * stiefel.tangent(x, gradient), way)
    best = torch.linalg.eigvalsh(matrix)[-2:].sum()
    assert float(torch.trace(x.T @ matrix @ x)) == pytest.approx(float(best), rel=1e-9)


def test_the_error_of_a_matrix_off_the_manifold_is_seen():
    x = torch.eye(4, 2, dtype=torch.float64)
    assert stiefel.orthogonality_error(x) == 0.0
    assert stiefel.orthogonality_error(torch.stack([x, 2 * x])) == pytest.approx(18**0.5)


def test_impossible_shapes_are_refused():
    with pytest.raises(ShapeError, match="at least as many rows"):
        stiefel.orthonormal(torch.zeros(2, 3))
    with pytest.raises(ShapeError, match="different shapes"):
        stiefel.tangent(torch.zeros(3, 2), torch.zeros(3, 1))
