"""The trained update, more or less of it: one training run becomes a curve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from farss.adapters.layers import lora_layers, trained_adapter
from farss.adapters.magnitude import has_magnitudes, scaled_magnitudes
from farss.adapters.sides import Started
from farss.adapters.trained import check_plain_lora, contributing, is_residual
from farss.adapters.triplets import has_triplets
from farss.errors import AdapterError

if TYPE_CHECKING:
    from peft import PeftModel


@contextmanager
def scaled_update(model: nn.Module, t: float, initial: Mapping[str, Tensor] | None = None) -> Iterator[None]:
    """While the block runs, `model` has `t` times its trained update; afterwards it is bit for bit what it was.

    `t = 0` is the base model, `t = 1` the trained one, values between and beyond interpolate the weights linearly:
    `W + t dW` with `dW = s (B A - B0 A0)` for farss adapters in either form, `s B A` for plain LoRA, and `W1 - W0` for
    DoRA and for a fully fine-tuned model.

    Args:
        model: a PEFT model, or a fine-tuned model together with `initial`.
        t: any finite number.
        initial: state dict before training, only for a model without adapters; entries it lacks are not scaled.

    Raises:
        AdapterError: if `model` has neither an adapter nor `initial`, or its adapter is of an unknown kind.
    """
    if t == 1:
        yield
    elif not hasattr(model, "peft_config"):
        if initial is None:
            raise AdapterError("a model without adapters needs its initial weights", do="pass `initial`")
        with _weights_between(model, initial, t):
            yield
    elif has_magnitudes(model):
        with scaled_magnitudes(model, t):  # type: ignore[arg-type]  # it has a peft_config
            yield
    elif has_triplets(model):
        with _scalings(model, t):  # type: ignore[arg-type]  # it has a peft_config
            yield
    else:
        check_plain_lora(model)  # type: ignore[arg-type]  # it has a peft_config
        with _mixed_factors(model, t) if is_residual(model) else _scalings(model, t):  # type: ignore[arg-type]
            yield


def can_be_scaled(model: PeftModel) -> bool:
    """Whether `scaled_update` can scale what the adapters of `model` add; others have to be merged first."""
    if has_magnitudes(model) or has_triplets(model):
        return True
    try:
        check_plain_lora(model)
    except AdapterError:
        return False
    return True


@contextmanager
def _scalings(model: PeftModel, t: float) -> Iterator[None]:
    """Every contributing adapter `t` times as strong."""
    layers, adapters = list(lora_layers(model).values()), contributing(model)
    saved = [dict(layer.scaling) for layer in layers]
    try:
        for layer in layers:
            for adapter in adapters:
                if adapter in layer.scaling:
                    layer.scaling[adapter] *= t
        yield
    finally:
        for layer, scaling in zip(layers, saved, strict=True):
            layer.scaling.update(scaling)


@contextmanager
def _mixed_factors(model: PeftModel, t: float) -> Iterator[None]:
    """Residual form: `s (t B A + (1 - t) B0 A0)` on the residual weight, as one product of rank 2r."""
    adapter, layers = trained_adapter(model), list(lora_layers(model).values())
    saved = [(layer, layer.lora_A[adapter], layer.lora_B[adapter]) for layer in layers]
    try:
        for layer, down, up in saved:
            assert isinstance(down, Started) and isinstance(up, Started)
            a, a0, b, b0 = (part.detach() for part in (down.factor, down.initial, up.factor, up.initial))
            layer.lora_A[adapter] = _linear(torch.cat([a, a0]))
            layer.lora_B[adapter] = _linear(torch.cat([t * b, (1 - t) * b0], 1))
        yield
    finally:
        for layer, down, up in saved:
            layer.lora_A[adapter], layer.lora_B[adapter] = down, up


def _linear(weight: Tensor) -> nn.Linear:
    linear = nn.Linear(*reversed(weight.shape), bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    return linear


@contextmanager
def _weights_between(model: nn.Module, initial: Mapping[str, Tensor], t: float) -> Iterator[None]:
    """Weights at `W0 + t (W1 - W0)`, mixed in float32 or better."""
    saved: list[tuple[nn.Parameter, Tensor]] = []
    try:
        for name, parameter in model.named_parameters():
            if name not in initial or not parameter.is_floating_point():
                continue
            saved.append((parameter, parameter.data))
            parameter.data = _between(initial[name], parameter.data, t)
        yield
    finally:
        for parameter, tensor in saved:
            parameter.data = tensor


def _between(start: Tensor, end: Tensor, t: float) -> Tensor:
    if t == 0:
        return start.detach().to(end.device, end.dtype, copy=True)
    wide = torch.promote_types(torch.float32, end.dtype)
    first = start.detach().to(end.device, wide)
    return (first + t * (end.to(wide) - first)).to(end.dtype)
