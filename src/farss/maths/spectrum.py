"""The thin singular value decomposition of one weight, kept as one orthonormal basis on its smaller side.

`W = U diag(sigma) V'` with W [m, n] and k = min(m, n). Scores and plans need `sigma` and the k x k basis only; the
other side is recovered for the few directions that are chosen.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from farss.errors import ConfigError, NumericalError, ShapeError
from farss.maths.routes import Route, gesdd, gram, polar
from farss.maths.routes import rank_tolerance as rank_tolerance

Side = Literal["left", "right"]

COHERENCE_TOLERANCE = 1e-4
"""Largest accepted `Frame.coherence` of a fast route: the error of every direction relative to its own sigma."""

ORTHOGONALITY_TOLERANCE = 1e-5
"""Largest accepted entry of I - B'B, of the basis in the dtype it is stored in."""

RECONSTRUCTION_TOLERANCE = 1e-5
"""Largest accepted relative Frobenius error of W rebuilt from the stored basis."""

SMALL_SIGMA = 1e-6
"""Below this share of sigma_1, `W v / sigma` amplifies the rounding of a stored float32 v beyond use."""

RECOVERY_TOLERANCE = 1e-2
"""Largest accepted entry of I - U'U of recovered vectors before they are orthonormalised."""


class AccuracyWarning(UserWarning):
    """The fast decomposition missed its bound and the exact one was used instead."""


@dataclass(frozen=True)
class Spectrum:
    """Singular values of one weight and the singular vectors of its smaller side, on the CPU wherever the weight is.

    Attributes:
        sigma: [k] float64, descending; values below the numerical rank tolerance are exactly zero.
        basis: [k, k], column i is u_i (side "left") or v_i ("right"), largest-magnitude entry positive; float64 for
            float64 weights, else float32.
        side: "left" if m < n, else "right".
        shape: (m, n).
        route: the route that was used; where one missed its bound, all that were tried, as in "gram->gesdd".
        orthogonality: largest entry of |I - B'B| of the stored basis.
        reconstruction: ||W - U S V'||_F / ||W||_F with the stored basis on its side.
    """

    sigma: Tensor
    basis: Tensor
    side: Side
    shape: tuple[int, int]
    route: str
    orthogonality: float
    reconstruction: float


def decompose(weight: Tensor, route: Route = "gram") -> Spectrum:
    """The spectrum of a weight.

    "gram" diagonalises the float64 Gram matrix of the smaller side; "polar" the symmetric polar factor, in float32
    with float64 polishing (all in float64 for float64 weights). Both are checked against W itself and replaced, with a
    warning, where they miss `COHERENCE_TOLERANCE` or a residual is too large: float32 "polar" by "gram", and what is
    then left by "gesdd" (float64 divide and conquer).

    Args:
        weight: [m, n], any float; promoted to float64 on its own device.
        route: "gram", "polar" or "gesdd"; `farss.maths.choice` picks the fastest.

    Returns:
        Spectrum with k = min(m, n) directions.

    Raises:
        ConfigError: for an unknown route.
        ShapeError: if the weight is not a matrix with entries.
        NumericalError: if it holds NaN or Inf, or the exact route misses its bounds.
    """
    exact = _checked_matrix(weight)
    side: Side = "left" if exact.shape[0] < exact.shape[1] else "right"
    stored = torch.float64 if weight.dtype == torch.float64 else torch.float32
    tall = exact.T if side == "left" else exact  # [max, k]: its right singular vectors are the basis
    *fast, last = _attempts(route, stored)
    tried = ""
    for name in fast:
        found = gram(tall) if name == "gram" else polar(tall, stored)
        spectrum = _finish(tall, found.sigma, found.basis, found.image, side, stored, tried + name)
        if found.coherence <= COHERENCE_TOLERANCE and _within_bounds(spectrum):
            return spectrum
        tried += f"{name}->"
        warnings.warn(
            f"route `{name}` missed its accuracy bound on a {tuple(weight.shape)} weight (relative error of a "
            f"direction {found.coherence:.1e}, allowed {COHERENCE_TOLERANCE:.0e}); a more exact route is used",
            AccuracyWarning,
            stacklevel=2,
        )
    far, sigma, near = gesdd(tall)
    spectrum = _finish(tall, sigma, near, far * sigma, side, stored, tried + last)
    if not _within_bounds(spectrum):
        raise NumericalError(
            "the decomposition missed its accuracy bounds",
            where=f"weight of shape {tuple(weight.shape)}",
            expected=f"orthogonality {ORTHOGONALITY_TOLERANCE:.0e}, reconstruction {RECONSTRUCTION_TOLERANCE:.0e}",
            got=f"{spectrum.orthogonality:.1e}, {spectrum.reconstruction:.1e}",
        )
    return spectrum


def _attempts(route: Route, stored: torch.dtype) -> tuple[Route, ...]:
    """The routes to try in turn, each more exact than the one before; float64 "polar" is more exact than "gram"."""
    if route not in get_args(Route):
        raise ConfigError("unknown route of decomposition", expected=" | ".join(get_args(Route)), got=repr(route))
    if route == "polar":
        return ("polar", "gesdd") if stored == torch.float64 else ("polar", "gram", "gesdd")
    return ("gram", "gesdd") if route == "gram" else ("gesdd",)


def directions(spectrum: Spectrum, weight: Tensor, indices: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Both singular vectors of chosen directions.

    The missing side is `W v_i / sigma_i` (or `W' u_i / sigma_i`), orthonormalised. Where a chosen sigma is below
    `SMALL_SIGMA * sigma_1`, zero included, all of them are taken from an exact decomposition instead.

    Args:
        spectrum: of `weight`.
        weight: [m, n], the weight that was decomposed.
        indices: r positions in the descending spectrum.

    Returns:
        (U [m, r], sigma [r], V [n, r]), float64, orthonormal columns, on the weight's device.

    Raises:
        ShapeError: if the weight has another shape or an index lies outside the spectrum.
        NumericalError: if the weight holds NaN or Inf.
    """
    exact = _checked_matrix(weight)
    if tuple(exact.shape) != tuple(spectrum.shape):
        raise ShapeError("the spectrum belongs to another weight", expected=spectrum.shape, got=tuple(exact.shape))
    k = len(spectrum.sigma)
    if any(not 0 <= i < k for i in indices):
        raise ShapeError("an index lies outside the spectrum", expected=f"0 to {k - 1}", got=list(indices))
    chosen = torch.as_tensor(list(indices), dtype=torch.long)
    tall = exact.T if spectrum.side == "left" else exact
    sigma = spectrum.sigma[chosen].to(tall.device)
    pair = None
    if bool((sigma > SMALL_SIGMA * spectrum.sigma.max()).all()):
        pair = _recover(tall, sigma, spectrum.basis[:, chosen].to(tall.device, torch.float64))
    if pair is None:
        far, sigma, near = gesdd(tall)
        chosen = chosen.to(tall.device)
        pair, sigma = (far[:, chosen], near[:, chosen]), sigma[chosen]
    other, basis = pair
    return (basis, sigma, other) if spectrum.side == "left" else (other, sigma, basis)


def _checked_matrix(weight: Tensor) -> Tensor:
    if weight.ndim != 2 or weight.numel() == 0:
        raise ShapeError("a weight must be a matrix with entries", expected="[m, n]", got=tuple(weight.shape))
    exact = weight.detach().to(torch.float64)
    if not bool(torch.isfinite(exact).all()):
        raise NumericalError(
            "the weight holds NaN or Inf", got=f"{int((~torch.isfinite(exact)).sum())} entries", do="check the file"
        )
    return exact


def _finish(
    tall: Tensor, sigma: Tensor, basis: Tensor, image: Tensor, side: Side, stored: torch.dtype, route: str
) -> Spectrum:
    """The spectrum on the CPU, with the residuals of the basis as stored; `image` is W B, or U diag(sigma)."""
    kept = basis.to(stored).contiguous()
    check = kept.to(torch.float64)
    identity = torch.eye(len(sigma), dtype=torch.float64, device=tall.device)
    norm = float(tall.norm())
    lost = float((tall - image @ check.T).norm())
    shape = (int(tall.shape[0]), int(tall.shape[1]))
    return Spectrum(
        sigma=sigma.cpu(),
        basis=kept.cpu(),
        side=side,
        shape=(shape[1], shape[0]) if side == "left" else shape,
        route=route,
        orthogonality=float((identity - check.T @ check).abs().max()),
        reconstruction=lost / norm if norm > 0 else 0.0,
    )


def _within_bounds(spectrum: Spectrum) -> bool:
    return spectrum.orthogonality <= ORTHOGONALITY_TOLERANCE and spectrum.reconstruction <= RECONSTRUCTION_TOLERANCE


def _recover(tall: Tensor, sigma: Tensor, near: Tensor) -> tuple[Tensor, Tensor] | None:
    """(U, V) of the chosen directions, or None if the stored vectors are too coarse for the chosen sigma."""
    left, _, right = torch.linalg.svd(near, full_matrices=False)
    near = left @ right  # the nearest orthonormal columns: undoes the rounding of storage, favours none
    far = (tall @ near) / sigma
    identity = torch.eye(len(sigma), dtype=torch.float64, device=tall.device)
    if float((identity - far.T @ far).abs().max()) > RECOVERY_TOLERANCE:
        return None
    # What is left of the rounding shows as traces of large directions in small ones, so the large ones are kept and
    # the small ones cleared of them: Gram-Schmidt from the largest sigma down.
    order = torch.argsort(sigma, descending=True, stable=True)
    cleared, triangle = torch.linalg.qr(far[:, order])
    cleared = cleared * triangle.diagonal().sign()
    return cleared[:, torch.argsort(order)], near
