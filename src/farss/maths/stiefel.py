"""Matrices with orthonormal columns: tangents, steps along them, and the way back onto the manifold.

`X [d, p]` with `X'X = I`, p <= d, is a point of the Stiefel manifold. All functions are pure, compute in the dtype they
are given (float32 or float64), and take leading batch dimensions.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from farss.errors import ShapeError

Retraction = Literal["polar", "qr"]


def orthonormal(matrix: Tensor) -> Tensor:
    """The Q of `matrix = QR` with a positive diagonal of R; a zero there counts as positive.

    Args:
        matrix: [..., d, p] with p <= d, float32 or float64.

    Returns:
        [..., d, p] with orthonormal columns. Of a Gaussian matrix, uniformly distributed on the manifold.

    Raises:
        ShapeError: if there are more columns than rows.
    """
    _check_tall(matrix)
    basis, triangle = torch.linalg.qr(matrix)
    signs = torch.where(triangle.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(basis.dtype)
    return basis * signs.unsqueeze(-2)


def tangent(x: Tensor, z: Tensor) -> Tensor:
    """The part of `z` that is tangent at `x`: `P_X(z) = z - x sym(x'z)`, the nearest tangent in Frobenius norm.

    Args:
        x: [..., d, p], orthonormal columns.
        z: [..., d, p], any direction.

    Returns:
        [..., d, p], `Z` with `x'Z + Z'x = 0`. A multiple of x itself, such as weight decay, is projected to zero.

    Raises:
        ShapeError: if the shapes differ.
    """
    _check_alike(x, z)
    inner = x.mT @ z
    return z - x @ (0.5 * (inner + inner.mT))


def retract(x: Tensor, step: Tensor, retraction: Retraction = "polar") -> Tensor:
    """The point of the manifold that `x + step` is brought back to.

    Args:
        x: [..., d, p], orthonormal columns.
        step: [..., d, p], a tangent at x.
        retraction: "polar", the nearest point, or "qr", the Q factor with positive diagonal of R.

    Raises:
        ShapeError: if the shapes differ.
    """
    _check_alike(x, step)
    return nearest(x + step) if retraction == "polar" else orthonormal(x + step)


def nearest(matrix: Tensor) -> Tensor:
    """The point of the manifold nearest to `matrix`: `Y (Y'Y)^(-1/2)`, which is UV' of the thin SVD of Y.

    The inverse root is taken of the small p x p matrix. Its error grows with the condition of Y, and one Newton-Schulz
    step removes it.

    Args:
        matrix: Y [..., d, p] of full column rank; `x + tangent` always is.

    Raises:
        ShapeError: if there are more columns than rows.
    """
    _check_tall(matrix)
    values, vectors = torch.linalg.eigh(matrix.mT @ matrix)
    return newton_schulz(matrix @ (vectors * values.rsqrt().unsqueeze(-2)) @ vectors.mT)


def newton_schulz(matrix: Tensor) -> Tensor:
    """One step `1.5 Z - 0.5 Z Z'Z` towards the nearest point, which squares a small distance to the manifold.

    Args:
        matrix: Z [..., d, p] with singular values below sqrt(3).
    """
    return 1.5 * matrix - 0.5 * matrix @ (matrix.mT @ matrix)


def cayley(x: Tensor, direction: Tensor, length: Tensor | float) -> Tensor:
    """The Cayley step against `direction`: `(I + (a/2) W)^(-1) (I - (a/2) W) x`, solved exactly in 2p dimensions.

    `W = D x' - x D'` with `D = M - x (x'M) / 2` is skew, and `W x = P_X(M)` for orthonormal x. It is the product of
    `[D, x]` and `[x, -D]'`, so the d x d inverse is one of 2p x 2p (Woodbury): cost d p^2 + p^3.

    Args:
        x: [..., d, p], orthonormal columns.
        direction: M [..., d, p], for example a gradient.
        length: a, a number or [...].

    Returns:
        [..., d, p], with `y'y = x'x` but for rounding; to first order `x - a P_X(M)`.

    Raises:
        ShapeError: if the shapes differ.
    """
    _check_alike(x, direction)
    inward = _skew_factor(x, direction)
    left, right = torch.cat([inward, x], -1), torch.cat([x, -inward], -1)
    a = torch.as_tensor(length, dtype=x.dtype, device=x.device)[..., None, None]
    identity = torch.eye(left.shape[-1], dtype=x.dtype, device=x.device)
    return x - a * (left @ torch.linalg.solve(identity + 0.5 * a * (right.mT @ left), right.mT @ x))


def cayley_tangent(x: Tensor, direction: Tensor, at: Tensor) -> Tensor:
    """`W at` for the W of `cayley(x, direction, ...)`: a tangent at `at` wherever `at` is on the manifold.

    Args:
        x: [..., d, p], where the step began.
        direction: M [..., d, p].
        at: [..., d, p], where it ended.
    """
    inward = _skew_factor(x, direction)
    return inward @ (x.mT @ at) - x @ (inward.mT @ at)


def cayley_norm(x: Tensor, direction: Tensor) -> Tensor:
    """The Frobenius norm [...] of the W of `cayley(x, direction, ...)`, which bounds its spectral norm, without W.

    Args:
        x: [..., d, p], orthonormal columns.
        direction: M [..., d, p].
    """
    inward = _skew_factor(x, direction)
    crossed = inward.mT @ x
    squared = ((inward.mT @ inward) * (x.mT @ x)).sum((-2, -1)) - (crossed * crossed.mT).sum((-2, -1))
    return (2 * squared).clamp(min=0).sqrt()


def orthogonality_error(x: Tensor) -> float:
    """`||x'x - I||_F` in float64, the largest of a batch.

    Args:
        x: [..., d, p], any float.
    """
    exact = x.detach().to(torch.float64)
    identity = torch.eye(exact.shape[-1], dtype=torch.float64, device=exact.device)
    return float((exact.mT @ exact - identity).flatten(-2).norm(dim=-1).max())


def row_skewness(rows: Tensor) -> Tensor:
    """`||X X' - I||_F` of the rows of X [r, d], in their dtype and with gradients: zero where they are orthonormal."""
    gram = rows @ rows.mT
    return torch.linalg.vector_norm(gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device))


def _skew_factor(x: Tensor, direction: Tensor) -> Tensor:
    return direction - 0.5 * x @ (x.mT @ direction)


def _check_tall(matrix: Tensor) -> None:
    if matrix.ndim < 2 or matrix.shape[-1] > matrix.shape[-2]:
        raise ShapeError(
            "orthonormal columns need at least as many rows", expected="[..., d, p], p <= d", got=matrix.shape
        )


def _check_alike(x: Tensor, other: Tensor) -> None:
    _check_tall(x)
    if x.shape != other.shape:
        raise ShapeError("a point and a direction have different shapes", expected=x.shape, got=other.shape)
