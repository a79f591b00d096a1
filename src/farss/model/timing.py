"""How long the statistics and decompositions of a model will take: a short calibration of the machine, then shapes.

What is counted are the matrix products and decompositions, which dominate on models worth predicting, and what norms,
rotations and gates take between the products. Attention over long sequences, loading and reading files are not counted,
so the prediction is a lower estimate of the pass; small matrices are calibrated less efficient than large ones run,
which errs the other way for the decompositions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from farss.maths.choice import Choice, named_route, sample_weight, timed, wait
from farss.model.cost import MOMENT_BYTES, BatchSize, kept_inputs, kept_numbers, resident_cost
from farss.model.targets import Target

SIZE = 384
"""Side of the matrices whose decompositions are timed."""

TALL = 3
"""Rows per column of the second matrix whose decomposition is timed."""

PRODUCT = (1024, 768, 1536)
"""Tokens, in-features and out-features of the products that are timed: as large as those of a pass over a small model,
for what fits in the caches runs a fifth faster."""

ENOUGH_SECONDS = 0.08
"""A piece of work is repeated until its runs have taken this long together, and its shortest run counts; seven pieces
with their first runs, which are not counted, take about a second on two cores."""

GATES = 10
"""Work between the products of a pass, forward and back, per number that it keeps, in gated activations: about what the
norms, rotations, gates and residuals of a Llama block do."""

PASS_FLOPS = 4
"""Per weight and token: a multiplication and an addition forward, and again for the gradient of the input."""

WALK_FLOPS = 6
"""A walk over blocks runs each of them forward twice."""

SCORING_PRODUCTS = 6
"""Products of a moment with the basis, per weight: two moments, for the whole and for each half of the data."""

CONGRUENCE_PRODUCTS = 4
"""Products that bring a moment to the weight's side, for each half: two where the sides are equal, none on a tall
weight whose moments were taken there."""


@dataclass(frozen=True)
class Speed:
    """What this machine does, measured on one size.

    Attributes:
        model_flops: per second, products in the model's dtype.
        moment_flops: per second, products in the dtype of the moments.
        exact_flops: per second, products in float64.
        decomposition: seconds per `max(m, n) * min(m, n)^2` of a weight, what grows with its longer side: the products
            that lead to its smaller side and back, and the checks.
        diagonalisation: seconds per `min(m, n)^3`, what does not.
        eigenvalues: seconds per `n^3` of a second moment.
        gate: seconds per number of a gated activation `silu(x) y`, in the model's dtype.
    """

    model_flops: float
    moment_flops: float
    exact_flops: float
    decomposition: float
    diagonalisation: float
    eigenvalues: float
    gate: float


@dataclass(frozen=True)
class TimeCost:
    """Predicted seconds.

    Attributes:
        statistics: of the pass over the calibration data.
        decomposition: of all weights, none of them in the cache.
        scoring: of all directions and hidden states, for the whole data and two halves.
    """

    statistics: float
    decomposition: float
    scoring: float

    @property
    def total(self) -> float:
        """All together."""
        return self.statistics + self.decomposition + self.scoring


def calibrate(dtype: torch.dtype, route: Choice = "gram", device: torch.device | str = "cpu") -> Speed:
    """The speed of this machine, measured in about a second.

    Args:
        dtype: of the model.
        route: by which weights will be decomposed.
        device: where the model is computed.
    """
    moments = torch.float64 if dtype == torch.float64 else torch.float32
    weight = sample_weight(SIZE, SIZE, torch.float32, device)
    tall = sample_weight(TALL * SIZE, SIZE, torch.float32, device)
    chosen = named_route(route, weight)
    moment = (weight.T @ weight).to(torch.float64)
    square_seconds, tall_seconds = (_shortest(partial(timed, each, chosen), device) for each in (weight, tall))
    per_row = min(max(tall_seconds - square_seconds, 0.0) / (TALL - 1), square_seconds)
    return Speed(
        model_flops=_product_flops(dtype, device),
        moment_flops=_product_flops(moments, device),
        exact_flops=_product_flops(torch.float64, device),
        decomposition=per_row / SIZE**3,
        diagonalisation=(square_seconds - per_row) / SIZE**3,
        eigenvalues=_shortest(lambda: torch.linalg.eigvalsh(moment), device) / SIZE**3,
        gate=_gate_seconds(dtype, device),
    )


def predict(
    model: nn.Module,
    targets: Sequence[Target],
    dtype: torch.dtype,
    tokens: int,
    speed: Speed,
    pass_flops: int = PASS_FLOPS,
) -> TimeCost:
    """Seconds of statistics, decompositions and scores, from shapes alone.

    Args:
        model: with or without its weights.
        targets: of it.
        dtype: of its weights during the pass.
        tokens: of all calibration examples.
        speed: of the machine.
        pass_flops: operations of the pass per weight and token, those of the moments aside.
    """
    sums = resident_cost(model, targets, dtype, BatchSize()).moments / MOMENT_BYTES.get(dtype, 4)
    rounded = dtype in (torch.float16, torch.bfloat16)  # their outputs are computed once more, in float32
    exact = sum(m * n for m, n in (target.shape for target in targets) if m != n) if rounded else 0
    per_token = pass_flops * _multiplied_weights(model) / speed.model_flops + 2 * (sums + exact) / speed.moment_flops
    per_token += pass_flops / PASS_FLOPS * GATES * kept_numbers(targets) * speed.gate
    products = sum(_scoring_products(target.shape) for target in targets)
    return TimeCost(
        statistics=tokens * per_token,
        decomposition=sum(_decomposition_seconds(target.shape, speed) for target in targets),
        scoring=2 * products / speed.exact_flops + speed.eigenvalues * sum(n**3 for n in kept_inputs(targets)),
    )


def _decomposition_seconds(shape: tuple[int, int], speed: Speed) -> float:
    k = min(shape)
    return k**2 * (max(shape) * speed.decomposition + k * speed.diagonalisation)


def _scoring_products(shape: tuple[int, int]) -> int:
    """Multiplications of one weight's scores."""
    m, n = shape
    k = min(m, n)
    return SCORING_PRODUCTS * k**3 + (CONGRUENCE_PRODUCTS * max(m, n) ** 2 * k if m <= n else 0)


def _multiplied_weights(model: nn.Module) -> int:
    """Numbers in all matrices that every token is multiplied with: all but an input embedding that is no output head.

    A mixture of experts uses fewer, so its time is overestimated.
    """
    looked_up, head = (_weight_of(model, getter) for getter in ("get_input_embeddings", "get_output_embeddings"))
    tied = looked_up is not None and looked_up is head
    return sum(p.numel() for p in model.parameters() if p.ndim == 2 and (tied or p is not looked_up))


def _weight_of(model: nn.Module, getter: str) -> nn.Parameter | None:
    module = getattr(model, getter)() if hasattr(model, getter) else None
    return getattr(module, "weight", None)


def _product_flops(dtype: torch.dtype, device: torch.device | str) -> float:
    tokens, n, m = PRODUCT
    weight = sample_weight(n, m, torch.float32, device).to(dtype)
    rows = sample_weight(tokens, n, torch.float32, device).to(dtype)
    return 2 * tokens * n * m / _shortest(lambda: rows @ weight, device)


def _gate_seconds(dtype: torch.dtype, device: torch.device | str) -> float:
    tokens, _, width = PRODUCT
    x, y = (sample_weight(tokens, width, torch.float32, device).to(dtype) for _ in range(2))
    return _shortest(lambda: functional.silu(x) * y, device) / x.numel()


def _shortest(work: Callable[[], object], device: torch.device | str) -> float:
    def finish() -> None:
        work()
        wait(device)

    finish()  # no library's start-up is timed
    runs: list[float] = []
    while sum(runs) < ENOUGH_SECONDS:
        started = time.perf_counter()
        finish()
        runs.append(time.perf_counter() - started)
    return max(min(runs), torch.finfo(torch.float32).eps)
