"""Decompositions of a weight that look at the inputs it is used on, through their second moment C."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from farss.errors import NumericalError, ShapeError
from farss.maths.spectrum import rank_tolerance

Damping = Literal["doubled", "fixed"]

DAMPING = 0.01
"""CorDA adds this share of the mean diagonal entry to the diagonal, or doubles it until the inverse is accurate."""

INVERSE_TOLERANCE = 0.05
"""Largest `||C inverse(C) - I||_F` that CorDA accepts."""

MOST_DOUBLINGS = 64


def unit_trace(moment: Tensor) -> Tensor:
    """The second moment scaled so that its mean eigenvalue is one: tr(C) = n.

    The scale of C moves norm between the factors made from it, and so decides how fast each of them learns.

    Args:
        moment: [n, n], symmetric, positive semi-definite.

    Raises:
        NumericalError: if its trace is not positive and finite.
    """
    trace = float(moment.trace())
    if not 0 < trace < float("inf"):
        raise NumericalError("a second moment of inputs is empty", expected="a positive trace", got=trace)
    return moment * (len(moment) / trace)


def damped(moment: Tensor, rule: Damping = "doubled") -> tuple[Tensor, Tensor]:
    """`C + d mean(diag C) I` and its inverse (CorDA, NeurIPS 2024).

    Args:
        moment: [n, n] float64, symmetric, positive semi-definite.
        rule: d = 0.01, "doubled" while the inverse misses `INVERSE_TOLERANCE`, or "fixed".

    Returns:
        (C with damping, its inverse), [n, n] each.

    Raises:
        NumericalError: if the inverse is not accurate, after `MOST_DOUBLINGS` or at once.
    """
    identity = torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    step, share, error = float(moment.diagonal().mean()), DAMPING, float("inf")
    for _ in range(MOST_DOUBLINGS if rule == "doubled" else 1):
        whole = moment + share * step * identity
        inverse, failed = torch.linalg.inv_ex(whole)
        error = float((whole @ inverse - identity).norm())
        if not bool(failed) and error < INVERSE_TOLERANCE:
            return whole, inverse
        share *= 2
    raise NumericalError(
        "a second moment of inputs cannot be inverted",
        expected=f"an inverse accurate to {INVERSE_TOLERANCE}",
        got=f"{error:.2g} with the damping {rule}",
        do="use more calibration rows",
    )


def context_components(
    weight: Tensor, whole: Tensor, inverse: Tensor, rank: int, end: Literal["high", "low"]
) -> tuple[Tensor, Tensor, Tensor]:
    """Components of W in the order of the singular values of W C: `W = sum_i sigma_i u_i w_i'`, `w_i = inverse(C) v_i`.

    Args:
        weight: [m, n], any float; promoted to float64.
        whole: C [n, n] float64, invertible.
        inverse: of C.
        rank: how many components.
        end: the largest or the smallest singular values; those that are zero are left out.

    Returns:
        (U [m, r], sigma [r] descending, inverse(C) V [n, r]) float64; fewer than `rank` where fewer are not zero.

    Raises:
        ShapeError: if C does not fit W.
        NumericalError: if every singular value is zero.
    """
    if weight.shape[1] != len(whole) or whole.shape != inverse.shape:
        raise ShapeError("the second moment does not fit the weight", expected=weight.shape[1], got=tuple(whole.shape))
    left, sigma, right = _nonzero(weight.detach().to(whole.device, torch.float64) @ whole)
    part = slice(0, rank) if end == "high" else slice(max(len(sigma) - rank, 0), None)
    return left[:, part], sigma[part], inverse @ right[:, part]


def null_components(weight: Tensor, moment: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Singular components of `P = W N N'`, where N are the `rank` eigenvectors of C with the smallest eigenvalues.

    Taken from the small product `W N = U Sigma Z'`, whose right vectors in the space of inputs are `N Z`.

    Args:
        weight: [m, n], any float; promoted to float64.
        moment: C [n, n] float64, symmetric.
        rank: dimensions of the near-null space.

    Returns:
        (U [m, r], sigma [r] descending, V [n, r]) float64; fewer than `rank` where fewer are not zero.

    Raises:
        ShapeError: if C does not fit W.
        NumericalError: if W is zero on the whole space.
    """
    if weight.shape[1] != len(moment):
        raise ShapeError("the second moment does not fit the weight", expected=weight.shape[1], got=tuple(moment.shape))
    space = torch.linalg.eigh(moment).eigenvectors[:, :rank]
    left, sigma, inner = _nonzero(weight.detach().to(moment.device, torch.float64) @ space)
    return left, sigma, space @ inner


def _nonzero(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(U, sigma, V) of the singular values above rounding level."""
    left, sigma, right = torch.linalg.svd(matrix, full_matrices=False)
    solid = sigma > rank_tolerance((matrix.shape[0], matrix.shape[1])) * sigma[0]
    if not bool(solid.any()):
        raise NumericalError("every singular value is zero", do="exclude this module")
    return left[:, solid], sigma[solid], right[solid].T
