"""Ways to decompose a tall matrix: `gram`, `polar` and `gesdd`, and the measure by which the first two are judged.

Each finds an orthonormal basis B of the smaller side. The measure is the same for all: the columns of `W B` must be
orthogonal, since they are the other side's singular vectors times sigma. Write `W B = U diag(sigma)` with unit columns
in U. The cosines, the off-diagonal entries of U'U, are the error at every direction relative to that direction's own
sigma, however small: a route that spoils the low end cannot hide behind the high one. To first order a set of
directions, cut off where sigma changes by the factor rho, is turned by at most `coherence / (rho - 1 / rho)`, and
sigma is wrong by less than `coherence`, relatively.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Route = Literal["gram", "polar", "gesdd"]

POLISHED = 1e-6
"""Coherence below which another polishing step, which about squares it, would change nothing that is used."""

POLISHING_STEPS = 5
"""Steps after which the polar route gives up: from one half, the worst it can mend, four were enough."""

POLISHING_GAIN = 2.0
"""Least factor by which a polishing step must lower the coherence to be followed by another."""

CHOLESKY_LIMIT = 100.0
"""Weight c of a polar step up to which it is taken by Cholesky, whose matrix then has a condition of at most 1 + c; QR
above (Nakatsukasa and Higham 2013, section 5)."""

ORTHONORMALISING_STEPS = 2
"""Newton-Schulz steps that bring a float32 eigenbasis (error e near 1e-6) to float64: e becomes 3/4 e^2 each time."""


@dataclass(frozen=True)
class Frame:
    """An orthonormal basis of the smaller side of a [max, k] matrix W, and what W makes of it; all float64.

    Attributes:
        sigma: [k], ||W b_i||, descending; exactly zero where it is at rounding level.
        basis: [k, k], column i is b_i, largest-magnitude entry positive.
        image: [max, k], W B.
        cosines: [k, k], of the angles between the columns of `image`; zero on the diagonal and where sigma is zero.
    """

    sigma: Tensor
    basis: Tensor
    image: Tensor
    cosines: Tensor

    @property
    def coherence(self) -> float:
        """Frobenius norm of the cosines: 0 for exact singular vectors, near sqrt(k) for arbitrary ones."""
        return float(self.cosines.norm())


def rank_tolerance(shape: tuple[int, int]) -> float:
    """The share of sigma_1 below which a float64 singular value cannot be told from zero."""
    return max(shape) * torch.finfo(torch.float64).eps


def frame(tall: Tensor, basis: Tensor) -> Frame:
    """The frame of an orthonormal basis, sorted by `||W b_i||`, which refines whatever sigma the basis came with.

    Args:
        tall: [max, k], float64.
        basis: [k, k], float64, orthonormal columns in any order.
    """
    image = tall @ basis
    sigma, order = torch.sort(image.norm(dim=0), descending=True, stable=True)
    basis, signs = fix_signs(basis[:, order])
    image = image[:, order] * signs
    solid = _solid(tall, sigma)
    unit = torch.where(solid, image / sigma, torch.zeros_like(image))
    cosines = (unit.T @ unit).fill_diagonal_(0.0)
    return Frame(torch.where(solid, sigma, torch.zeros_like(sigma)), basis, image, cosines)


def gram(tall: Tensor, dtype: torch.dtype = torch.float64) -> Frame:
    """Eigenvectors of the Gram matrix W'W, formed and diagonalised in `dtype`.

    The squared condition number reaches the cosines: about `eps * (sigma_1 / sigma_k)^2`. Float32 is for comparison.

    Args:
        tall: [max, k], float64.
        dtype: of the Gram matrix.
    """
    narrow = tall.to(dtype)
    _, basis = torch.linalg.eigh(narrow.T @ narrow)
    return frame(tall, basis.to(torch.float64))


def polar(tall: Tensor, dtype: torch.dtype) -> Frame:
    """Eigenvectors of the symmetric polar factor P of `W = Q P`, from matrix products, QR and Cholesky in `dtype`.

    P has the condition number of W itself, not its square, so the cosines come to about `eps * sigma_1 / sigma_k`.
    The basis is made orthonormal in float64 and polished there, with products and solves only, while that helps.
    In a process that has switched TF32 on, float32 here has its 11 bits and the cosines show it.

    Args:
        tall: [max, k], float64.
        dtype: float32 or float64, of the factorisation and its eigenvectors.
    """
    scale = float(tall.norm()) or 1.0
    triangle = torch.linalg.qr((tall / scale).to(dtype), mode="r")[1]
    product = polar_factor(triangle).T @ triangle
    _, basis = torch.linalg.eigh((product + product.T) / 2)
    found = frame(tall, _orthonormal(basis.to(torch.float64)))
    for _ in range(POLISHING_STEPS):
        if found.coherence <= POLISHED:
            break
        better = frame(tall, _polish(found))
        if better.coherence * POLISHING_GAIN > found.coherence:
            break
        found = better
    return found


def gesdd(tall: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(U [max, k], sigma [k], V [k, k]) by divide and conquer, with the sign rule on V and proven zeros set to zero.

    Args:
        tall: [max, k], float64.
    """
    far, sigma, near = torch.linalg.svd(tall, full_matrices=False)
    basis, signs = fix_signs(near.T)
    return far * signs, torch.where(_solid(tall, sigma), sigma, torch.zeros_like(sigma)), basis


def polar_factor(matrix: Tensor) -> Tensor:
    """The orthonormal factor Q of a matrix with norm at most 1, by dynamically weighted Halley iteration (QDWH).

    The weights need a lower bound of the singular values; the rounding unit is taken, for nothing below it can be
    known, so the number of steps is fixed by the dtype: four in float32, six in float64.

    Source: Nakatsukasa, Bai and Gygi, "Optimizing Halley's iteration for computing the matrix polar decomposition",
    2010.

    Args:
        matrix: [k, k], float32 or float64.

    Returns:
        [k, k]; along directions below the rounding unit its singular values may stay below 1.
    """
    identity = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    for a, b, c in halley_weights(torch.finfo(matrix.dtype).eps):
        if c > CHOLESKY_LIMIT:
            both, _ = torch.linalg.qr(torch.cat([math.sqrt(c) * matrix, identity]))
            upper, lower = both.split(len(matrix))
            matrix = (b / c) * matrix + ((a - b / c) / math.sqrt(c)) * (upper @ lower.T)
        else:
            root = torch.linalg.cholesky(identity + c * (matrix.T @ matrix))
            matrix = (b / c) * matrix + (a - b / c) * torch.cholesky_solve(matrix.T, root).T
    return matrix


def halley_weights(unit: float) -> Iterator[tuple[float, float, float]]:
    """The weights (a, b, c) of the steps that bring singular values from [unit, 1] to 1.

    Args:
        unit: rounding unit of the dtype.
    """
    low = unit
    while 1 - low > 10 * unit:
        squared = low * low
        d = (4 * (1 - squared) / squared**2) ** (1 / 3)
        a = math.sqrt(1 + d) + math.sqrt(8 - 4 * d + 8 * (2 - squared) / (squared * math.sqrt(1 + d))) / 2
        b = (a - 1) ** 2 / 4
        c = a + b - 1
        yield a, b, c
        low = min(1.0, low * (a + b * squared) / (1 + c * squared))


def fix_signs(basis: Tensor) -> tuple[Tensor, Tensor]:
    """The columns with their largest-magnitude entry positive, and the factors of 1 or -1 that did it."""
    largest = basis.abs().argmax(dim=0)
    signs = torch.where(basis.gather(0, largest[None])[0] < 0, -1.0, 1.0).to(basis.dtype)
    return basis * signs, signs


def _solid(tall: Tensor, sigma: Tensor) -> Tensor:
    return sigma > rank_tolerance((tall.shape[0], tall.shape[1])) * sigma[0]


def _orthonormal(basis: Tensor) -> Tensor:
    for _ in range(ORTHONORMALISING_STEPS):
        basis = 1.5 * basis - 0.5 * (basis @ (basis.T @ basis))
    return basis


def _polish(found: Frame) -> Tensor:
    """The basis turned so that, to first order, all pairs of images become orthogonal at once.

    Every pair gets the angle of a Jacobi rotation; the Cayley transform makes one orthogonal matrix of all angles.
    """
    squared = found.sigma.square()
    products = found.cosines * found.sigma * found.sigma[:, None]
    gaps = squared - squared[:, None]
    half = torch.atan2(2 * products, gaps.abs()) * gaps.sign() / 4
    identity = torch.eye(len(squared), dtype=squared.dtype, device=squared.device)
    return found.basis @ torch.linalg.solve(identity - half, identity + half)
