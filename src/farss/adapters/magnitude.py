"""DoRA's adapter: what it makes of each weight, which is no low-rank change.

The adapter itself is PEFT's. `W' = m * (W + s B A) / ||W + s B A||` with the norm over the rows of an [out, in] weight
rescales every row of W, so `W' - W` has full rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from farss.adapters.factors import adapter_dtype, planned_target
from farss.adapters.layers import lora_layers, oriented
from farss.adapters.trained import adapter_factors, check_plain_lora, contributing
from farss.errors import AdapterError
from farss.model.plan import Plan
from farss.model.targets import weight_matrix

if TYPE_CHECKING:
    from peft import PeftModel


def has_magnitudes(model: nn.Module) -> bool:
    """Whether an active adapter of `model` is DoRA's."""
    configs = getattr(model, "peft_config", {})
    active = contributing(model) if configs else []  # type: ignore[arg-type]  # it has a peft_config
    return any(getattr(configs[adapter], "use_dora", False) for adapter in active)


def check_norms(model: nn.Module, plan: Plan) -> None:
    """Check that no row of a planned weight is zero: it has no direction, and its outputs would be NaN.

    Raises:
        AdapterError: naming the first such module.
    """
    for row in plan.targets:
        dead = int((weight_matrix(planned_target(model, row)).detach().abs().amax(1) == 0).sum())
        if dead:
            raise AdapterError(
                "a weight has rows of zeros, which have no direction",
                where=row.name,
                got=f"{dead} of {row.shape[0]} rows",
                do="list the module under `exclude`, or use the method `lora`",
            )


def start_magnitudes_(model: PeftModel) -> None:
    """Set every m to the norms of its weight's rows, as the forward pass computes them, in the dtype of the adapter.

    PEFT takes them in the dtype of the base, and the start of a half-precision model would be off by that rounding.
    """
    for _, layer, adapter in _layers(model):
        term, part = layer.lora_magnitude_vector[adapter], adapter_factors(layer, adapter)
        weight = layer.get_base_layer().weight.detach().to(part.up.dtype)
        norms = term.get_weight_norm(weight, part.up @ part.down, layer.scaling[adapter])
        term.weight.data = norms.to(part.up.dtype)


def weight_changes(model: PeftModel) -> Iterator[tuple[str, Tensor]]:
    """`W' - W` [m, n] of one adapted weight after the other, in float32 or better; the model is only read.

    Raises:
        AdapterError: if the adapter is not DoRA's alone, or is merged.
    """
    for name, layer, adapter in _layers(model):
        weight = oriented(layer.get_base_layer(), layer.get_base_layer().weight.detach())
        wide = adapter_dtype(weight)
        part = adapter_factors(layer, adapter)
        moved = weight.to(wide) + layer.scaling[adapter] * (part.up.to(wide) @ part.down.to(wide))
        factor = layer.lora_magnitude_vector[adapter].weight.detach().to(wide) / moved.norm(dim=1)
        yield name, factor[:, None] * moved - weight.to(wide)


def magnitudes(model: PeftModel) -> dict[str, Tensor]:
    """The magnitudes m [out] of every adapted module: the norms of the rows of W'.

    Raises:
        AdapterError: if the adapter is not DoRA's alone, or is merged.
    """
    return {name: layer.lora_magnitude_vector[adapter].weight.detach() for name, layer, adapter in _layers(model)}


def change_mismatch(expected: PeftModel, got: PeftModel) -> float:
    """The largest difference of two models' changes over all modules, `||W1' - W2'||_F / ||W1'||_F`."""
    sizes = {name: float(part.norm()) for name, part in magnitudes(expected).items()}
    if list(sizes) != list(magnitudes(got)):
        return float("inf")
    pairs = zip(weight_changes(expected), weight_changes(got), strict=True)
    return max(float((one - other.to(one)).norm()) / sizes[name] for (name, one), (_, other) in pairs)


@contextmanager
def scaled_magnitudes(model: PeftModel, t: float) -> Iterator[None]:
    """While the block runs, every weight is `W + t (W' - W)`; nothing stored is touched.

    PEFT adds `(W' - W) x` to the base's output as one term, and that term is multiplied.

    Raises:
        AdapterError: if the adapter is not DoRA's alone, or is merged.
    """
    handles = []
    try:
        for _, layer, adapter in _layers(model):
            term = layer.lora_magnitude_vector[adapter]
            handles.append(term.register_forward_hook(lambda module, inputs, output: t * output))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _layers(model: PeftModel) -> list[tuple[str, Any, str]]:
    check_plain_lora(model, magnitudes=True)
    (adapter,) = contributing(model)
    return [(name, layer, adapter) for name, layer in lora_layers(model).items() if adapter in layer.r]
