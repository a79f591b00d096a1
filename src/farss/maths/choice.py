"""Which route decomposes weights of a shape fastest on this machine: measured once, on one matrix of that size."""

from __future__ import annotations

import functools
import math
import time
import warnings
from typing import Literal, get_args

import torch
from torch import Tensor

from farss.errors import ShapeError
from farss.maths.routes import Route
from farss.maths.spectrum import AccuracyWarning, Spectrum, decompose

Choice = Literal[Route, "auto"]

LARGEST_TIMED = 1024
"""Largest smaller side that is timed; beyond it the ranking of routes is taken from this size, to stay in seconds."""

WARM_UP = 64
"""Size of the matrix that each route decomposes first, so that no library's start-up is timed."""

ENOUGH_SECONDS = 0.2
"""A route is timed again until its runs have taken this long together, and its shortest run counts."""

MARGIN = 1.25
"""How many times faster than "gram" another route must be to be chosen, so that noise does not choose."""

OUTLIER = 30.0
"""The largest singular value of the timed matrix, in multiples of the next: trained weights have such a direction, and
it costs the float32 polar route polishing steps that a plain random matrix would spare it."""


def choose_route(shape: tuple[int, int], device: torch.device | str, dtype: torch.dtype = torch.float32) -> Route:
    """The fastest route that stays within its bounds, for weights of this shape on this device.

    Every route decomposes one random matrix (seeded, Gaussian with one direction far above the rest); "gram" is kept
    unless another is `MARGIN` times faster. The choice is made once per process for each rounded size (k to a power of
    two, the longer side to a whole multiple of k), kind of device and working dtype, and never changes in between. It
    is a measurement: another process may choose otherwise, which `SpectrumCache` guards against by keeping the choice
    beside the spectra.

    Args:
        shape: (m, n) of the weight.
        device: where the weight is.
        dtype: of the weight.

    Raises:
        ShapeError: if a side is empty.
    """
    short, long = sorted(shape)
    if short < 1:
        raise ShapeError("a weight must be a matrix with entries", expected="[m, n]", got=tuple(shape))
    size = min(2 ** round(math.log2(short)), LARGEST_TIMED)
    working = torch.float64 if dtype == torch.float64 else torch.float32
    return _fastest(size, round(long / short), torch.device(device).type, working)


def named_route(route: Choice, weight: Tensor) -> Route:
    """The route itself, or the one that "auto" stands for on this weight's shape, device and dtype.

    Args:
        route: "auto" or a route.
        weight: [m, n], any float.
    """
    return choose_route((weight.shape[0], weight.shape[1]), weight.device, weight.dtype) if route == "auto" else route


def timed(weight: Tensor, route: Route) -> tuple[Spectrum, float]:
    """The spectrum of a weight by a route, and the seconds it took with its checks and any fall-back.

    A fall-back shows in `Spectrum.route` only; here it is a finding, not a warning.

    Args:
        weight: [m, n], any float.
        route: "gram", "polar" or "gesdd".
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AccuracyWarning)
        wait(weight.device)
        started = time.perf_counter()
        spectrum = decompose(weight, route)
        wait(weight.device)
        return spectrum, time.perf_counter() - started


def sample_weight(rows: int, columns: int, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """A seeded Gaussian matrix [rows, columns] with one singular value about `OUTLIER` times the next."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(rows, columns, generator=generator, dtype=dtype)
    left, right = (torch.randn(size, generator=generator, dtype=dtype) for size in (rows, columns))
    largest = rows**0.5 + columns**0.5  # of the Gaussian part, nearly
    spike = OUTLIER * largest / float(left.norm() * right.norm())
    return (weight + spike * torch.outer(left, right)).to(device)


@functools.cache
def _fastest(size: int, ratio: int, device: str, dtype: torch.dtype) -> Route:
    weight, small = (sample_weight(ratio * k, k, dtype, device) for k in (size, min(size, WARM_UP)))
    seconds: dict[Route, float] = {}
    for route in get_args(Route):
        timed(small, route)
        spectrum, taken = timed(weight, route)
        runs = [taken]
        while sum(runs) < ENOUGH_SECONDS:
            runs.append(timed(weight, route)[1])
        if spectrum.route == route:
            seconds[route] = min(runs)
    best = min(seconds, key=lambda route: seconds[route])
    return "gram" if "gram" in seconds and seconds["gram"] <= MARGIN * seconds[best] else best


def wait(device: torch.device | str) -> None:
    """Until the device has finished what it was given; a processor always has."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
