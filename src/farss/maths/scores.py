"""Fisher scores of singular directions and Fisher importance of modules, from k x k second moments (Eq. 8, 13-15).

With `S_h = E[h h']` of the inputs, `S_d = E[d d']` of the output gradients and `g = W' d`, one side is enough:
`s_i = (v_i' S_h v_i)(v_i' S_g v_i) = (u_i' S_y u_i)(u_i' S_d u_i)`, since `sigma_i u_i' d = v_i' g`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from farss.errors import NumericalError, ShapeError
from farss.maths.spectrum import Spectrum

SHALLOW_SHARE = 0.19
"""Default share of shallow layers: 6 of 32, inside the range of the paper's boundary search (1/8 to 1/4)."""


@dataclass(frozen=True)
class DirectionScores:
    """Loss sensitivity of every singular direction of one module.

    Attributes:
        log_s: [k] float64, natural logarithm of `sigma_i^2 lam_i gam_i` (Eq. 15); -inf for a zero score.
        lam: [k] float64, mean squared input along v_i (Eq. 13).
        gam: [k] float64, mean squared output gradient along u_i (Eq. 14).
        importance: `Tr(S_d W S_h W') / (m n)` (Eq. 8).

    Where sigma_i is zero, the factor of the side that was not measured is unknown and reported as zero.
    """

    log_s: Tensor
    lam: Tensor
    gam: Tensor
    importance: float


def score_directions(spectrum: Spectrum, first: Tensor, second: Tensor, shape: tuple[int, int]) -> DirectionScores:
    """Scores of all directions of one module, from the second moments on the spectrum's side (Eq. 8, 13-15).

    Args:
        spectrum: of the weight, side "right" or "left".
        first: [k, k], promoted to float64: `S_h` on the right side, `S_y = W S_h W'` on the left.
        second: [k, k], promoted to float64: `S_g = W' S_d W` on the right side, `S_d` on the left.
        shape: (m, n) of the weight.

    Returns:
        DirectionScores on the CPU, computed where the moments are; the logarithm is taken before multiplying, scores
        span more than 20 decades.

    Raises:
        ShapeError: if the moments are not k x k or the spectrum is of another shape.
        NumericalError: if a moment holds NaN or Inf.
    """
    k = len(spectrum.sigma)
    if tuple(spectrum.shape) != tuple(shape):
        raise ShapeError("the spectrum belongs to another weight", expected=tuple(shape), got=spectrum.shape)
    for name, moment in (("first", first), ("second", second)):
        if tuple(moment.shape) != (k, k):
            raise ShapeError(f"the {name} moment has the wrong size", expected=(k, k), got=tuple(moment.shape))
        if not bool(torch.isfinite(moment).all()):
            raise NumericalError(f"the {name} moment holds NaN or Inf", do="check the calibration data and the dtype")
    first, second = first.to(torch.float64), second.to(torch.float64)
    basis, sigma = spectrum.basis.to(first.device).to(torch.float64), spectrum.sigma.to(torch.float64)
    along_first, along_second = _quadratic(basis, first), _quadratic(basis, second)
    solid = sigma > 0
    log_s = torch.where(solid, along_first.log() + along_second.log(), torch.full_like(sigma, -torch.inf))
    squared = torch.where(solid, sigma.square(), torch.ones_like(sigma))
    if spectrum.side == "right":
        lam, gam = along_first, torch.where(solid, along_second / squared, 0.0)
    else:
        lam, gam = torch.where(solid, along_first / squared, 0.0), along_second
    importance = float((first * second).sum()) / (shape[0] * shape[1])
    return DirectionScores(log_s, lam, gam, max(importance, 0.0))


def default_shallow_layers(layers: int) -> int:
    """The number of shallow layers when none is given: about a fifth, at least one, zero for a model without layers."""
    return max(1, round(SHALLOW_SHARE * layers)) if layers else 0


def _quadratic(basis: Tensor, moment: Tensor) -> Tensor:
    """[k] values b_i' M b_i on the CPU; a second moment is positive semidefinite, so negative values are rounding."""
    return ((moment @ basis) * basis).sum(dim=0).clamp_min(0.0).cpu()
