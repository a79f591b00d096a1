"""How concentrated a spectrum is: the share of its energy in the largest values (Figure 1 of the paper)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from farss.errors import NumericalError, ShapeError

TOP = 5
"""Values whose share the paper's Figure 1 shows."""


def energy_share(sigma: Tensor, top: int = TOP) -> float:
    """Share of the squared singular values that the `top` largest hold, `sum_{i<=top} sigma_i^2 / sum sigma_i^2`.

    Args:
        sigma: [k], non-negative, any order and float; promoted to float64.
        top: how many, at least 1; more than k counts all.

    Returns:
        Between `top / k` (all equal) and 1; NaN if every value is zero.

    Raises:
        ShapeError: if there is no value, or `top` is below 1.
        NumericalError: if a value is negative, NaN or infinite.
    """
    return _share(_checked(sigma, "singular value").square(), top)


def eigenvalue_share(moment: Tensor, top: int = TOP) -> float:
    """The same share for a second-moment matrix `E[h h']`, whose eigenvalues are squared singular values of the rows h.

    Args:
        moment: [n, n], symmetric positive semidefinite, any float; promoted to float64.
        top: how many, at least 1.

    Returns:
        As `energy_share`; eigenvalues below zero are rounding and count as zero.

    Raises:
        ShapeError: if it is not square, or `top` is below 1.
        NumericalError: if it holds NaN or Inf.
    """
    if moment.ndim != 2 or moment.shape[0] != moment.shape[1]:
        raise ShapeError("a second moment must be square", expected="[n, n]", got=tuple(moment.shape))
    exact = moment.to(torch.float64)
    if not bool(torch.isfinite(exact).all()):
        raise NumericalError("a second moment holds NaN or Inf", do="check the calibration data and the dtype")
    return _share(torch.linalg.eigvalsh(exact).clamp_min(0.0), top)


def directions_for_share(log_scores: Tensor, share: float) -> int:
    """The least number of directions whose scores add up to `share` of the sum of all.

    Scores span more than 20 decades and may lie outside float64's range, so they are divided by the largest, as
    logarithms, before they are added.

    Args:
        log_scores: [k], natural logarithms, any order; -inf is a zero score.
        share: above 0, at most 1.

    Returns:
        1 to k; 0 if every score is zero.

    Raises:
        ShapeError: if there is no score, or the share is not in (0, 1].
        NumericalError: if a score is NaN or infinite.
    """
    if log_scores.ndim != 1 or len(log_scores) == 0 or not 0 < share <= 1:
        raise ShapeError("scores and a share of them are needed", expected="[k], 0 < share <= 1", got=share)
    values = log_scores.to(torch.float64)
    if bool((values.isnan() | values.isposinf()).any()):
        raise NumericalError("a direction score is NaN or infinite", got=float(values.max()))
    largest = float(values.max())
    if largest == -math.inf:
        return 0
    sums = (values - largest).exp().sort(descending=True).values.cumsum(0)
    return int((sums < share * sums[-1]).sum()) + 1


def _checked(values: Tensor, what: str) -> Tensor:
    if values.ndim != 1 or len(values) == 0:
        raise ShapeError(f"at least one {what} is needed", expected="[k]", got=tuple(values.shape))
    exact = values.to(torch.float64)
    if not bool((torch.isfinite(exact) & (exact >= 0)).all()):
        raise NumericalError(f"a {what} is negative, NaN or infinite", got=float(exact.min()))
    return exact


def _share(energies: Tensor, top: int) -> float:
    if top < 1:
        raise ShapeError("at least one value is needed", where="top", got=top)
    total = float(energies.sum())
    if total == 0:
        return math.nan
    return min(float(energies.topk(min(top, len(energies))).values.sum()) / total, 1.0)
