"""The best approximation of a product of two thin factors by thinner ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from farss.errors import NumericalError, ShapeError


@dataclass(frozen=True)
class Recompressed:
    """A rank-r approximation of `up @ down` and what it cost.

    Attributes:
        up: [m, r] float64.
        down: [r, n] float64.
        error: Frobenius norm of the difference, the root of the sum of the squared dropped singular values.
        norm: Frobenius norm of the product that was approximated.
    """

    up: Tensor
    down: Tensor
    error: float
    norm: float


def recompress(up: Tensor, down: Tensor, rank: int) -> Recompressed:
    """The closest product of rank `rank` to `up @ down`, without forming the [m, n] product.

    QR of both factors leaves a small core whose singular value decomposition is that of the product, so the
    truncation is optimal (Eckart and Young) and costs O((m + n) R^2).

    Args:
        up: [m, R], any float; promoted to float64.
        down: [R, n], any float; promoted to float64.
        rank: wanted rank; where the product has fewer than `rank` directions, zeros fill the rest.

    Returns:
        Factors of exactly `rank` columns and rows, singular values shared evenly between the two, and the error.

    Raises:
        ShapeError: if the inner sizes differ or `rank` is below 1.
        NumericalError: if a factor holds NaN or Inf.
    """
    if up.ndim != 2 or down.ndim != 2 or up.shape[1] != down.shape[0]:
        raise ShapeError(
            "factors do not multiply", expected="[m, R] and [R, n]", got=f"{list(up.shape)}, {list(down.shape)}"
        )
    if rank < 1:
        raise ShapeError("the rank must be at least 1", got=rank)
    up, down = up.detach().double(), down.detach().double()
    if not (torch.isfinite(up).all() and torch.isfinite(down).all()):
        raise NumericalError("a factor holds NaN or Inf", do="look for a diverged training run")
    up_basis, up_core = torch.linalg.qr(up)
    down_basis, down_core = torch.linalg.qr(down.T)
    left, sigma, right = torch.linalg.svd(up_core @ down_core.T, full_matrices=False)
    kept = min(rank, len(sigma))
    root = sigma[:kept].sqrt()
    new_up, new_down = up.new_zeros(up.shape[0], rank), down.new_zeros(rank, down.shape[1])
    new_up[:, :kept] = up_basis @ (left[:, :kept] * root)
    new_down[:kept] = (root[:, None] * right[:kept]) @ down_basis.T
    error = torch.linalg.vector_norm(sigma[kept:])
    return Recompressed(new_up, new_down, float(error), float(torch.linalg.vector_norm(sigma)))
