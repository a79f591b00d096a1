"""Whether two models say the same: the check behind every exported file."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from farss.errors import NumericalError
from farss.model.modes import evaluating
from farss.model.tables import random_words

LOGIT_TOLERANCE = 1e-4
"""Logit difference that is always accepted."""

ROUNDING_SHARE = {torch.float64: 2e-5, torch.float32: 2e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Accepted logit difference as a share of the largest logit, by the coarsest dtype in the model: the same product
summed in another order is rounded differently in every layer. About five times what a 30-layer model shows."""

UPDATE_TOLERANCE = 1e-6
"""Largest accepted mismatch of the written update itself, relative to the size of its float32 factors."""

SAMPLE_SHAPE = (2, 16)
SAMPLE_SEED = 0


def sample_inputs(model: nn.Module, sample: Tensor | Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Inputs for a comparison: `sample`, or random tokens.

    Args:
        model: for its vocabulary and device.
        sample: token ids [b, t], or keyword inputs of the model (labels are left out); None draws ids.
    """
    device = next(model.parameters()).device
    if isinstance(sample, Mapping):
        return {key: value.to(device) for key, value in sample.items() if key != "labels"}
    if sample is None:
        sample = random_words(model, SAMPLE_SHAPE, seed=SAMPLE_SEED)
    return {"input_ids": sample.to(device)}


def logits(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """The outputs of `model` in evaluation mode, on the CPU in float32 or better."""
    with evaluating(model), torch.no_grad():
        output = model(**inputs).logits
    return output.to("cpu", torch.promote_types(torch.float32, output.dtype))


def tolerance(expected: Tensor, dtype: torch.dtype) -> float:
    """The largest difference from `expected` that rounding in `dtype` can explain."""
    return max(LOGIT_TOLERANCE, ROUNDING_SHARE.get(dtype, 0.0) * float(expected.abs().max()))


def max_difference(expected: Tensor, got: Tensor) -> float:
    """The largest absolute difference; infinite where either holds NaN or the shapes differ."""
    if expected.shape != got.shape:
        return float("inf")
    largest = float((expected - got).abs().max())
    return largest if largest == largest else float("inf")


def check_difference(difference: float, allowed: float | None, where: object, what: str = "logits") -> None:
    """Check that a written model equals the trained one.

    Raises:
        NumericalError: if `difference` is above `allowed`; None allows any finite difference.
    """
    if difference <= (torch.finfo(torch.float64).max if allowed is None else allowed):
        return
    raise NumericalError(
        "the exported files do not reproduce the trained model, so they were not kept",
        where=where,
        expected=f"{what} within {allowed:.3g}" if allowed is not None else f"finite {what}",
        got=f"a difference of {difference:.3g}",
        do="check that the base model is the one the adapter was trained on",
    )
