"""The largest singular components of a matrix by randomised subspace iteration."""

from __future__ import annotations

import torch
from torch import Tensor

from farss.errors import NumericalError, ShapeError


def leading_components(weight: Tensor, rank: int, iterations: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Approximately the `rank` largest singular values and their vectors.

    Halko, Martinsson and Tropp, Finding Structure with Randomness (2011), Algorithms 4.4 and 5.1, without
    oversampling: a random subspace of `rank` dimensions is multiplied by W'W `iterations` times, orthonormalised at
    every half step, and W is decomposed within it. Each iteration shrinks what is mixed in from direction j to
    direction i by (sigma_j / sigma_i)**2, so components beside a clear gap come out exact and those within a plateau
    of the spectrum are some of it.

    Args:
        weight: [m, n], any float; half precision is promoted to float32, float64 stays.
        rank: r, 1 to min(m, n).
        iterations: at least 0.
        seed: of the random subspace.

    Returns:
        (U [m, r], sigma [r] descending, V [n, r]), columns orthonormal, on the weight's device; singular values at
        rounding level are exactly zero.

    Raises:
        ShapeError: if the weight is no matrix, or has fewer than `rank` directions.
        NumericalError: if it holds NaN or Inf.
    """
    if weight.ndim != 2 or not 1 <= rank <= min(weight.shape):
        raise ShapeError("impossible rank", expected=f"1 to the smaller side of {tuple(weight.shape)}", got=rank)
    w = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    if not bool(torch.isfinite(w).all()):
        raise NumericalError("the weight holds NaN or Inf", got=f"{int((~torch.isfinite(w)).sum())} entries")
    drawn = torch.randn(w.shape[1], rank, dtype=w.dtype, generator=torch.Generator().manual_seed(seed))
    left = torch.linalg.qr(w @ drawn.to(w.device)).Q
    for _ in range(iterations):
        right = torch.linalg.qr(w.T @ left).Q
        left = torch.linalg.qr(w @ right).Q
    inner, sigma, right = torch.linalg.svd(left.T @ w, full_matrices=False)
    solid = sigma > max(w.shape) * torch.finfo(w.dtype).eps * sigma[0]
    return left @ inner, torch.where(solid, sigma, torch.zeros_like(sigma)), right.T
