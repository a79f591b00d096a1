"""Adapters with a gate: FoRA's `s g B A` and KaSA's `s B diag(d) A`.

FoRA has one orthonormal factor and a trained number g that is zero at the start; KaSA a trained diagonal, on a
truncated W. Both are adapters whose A is `g A` or `diag(d) A` (`farss.adapters.sides`): merging, scaling and exporting
see the folded product and need not know of the gate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from farss.adapters.layers import DEFAULT, lora_layers, trained_adapter
from farss.adapters.provenance import provenance_of
from farss.adapters.sides import GatedDown, TruncatedDown
from farss.errors import AdapterError, PlanError
from farss.maths.stiefel import orthonormal
from farss.method_settings import registry
from farss.model.plan import Plan

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True)
class Constrained:
    """One factor that training keeps orthonormal.

    Attributes:
        parameter: B [m, r] with `B'B = I`, or A [r, n] with `AA' = I`.
        rows: whether its rows are the orthonormal vectors.
    """

    parameter: nn.Parameter
    rows: bool

    def point(self) -> Tensor:
        """X [d, r] with orthonormal columns: the parameter or its transpose, detached, in the same memory."""
        return self.parameter.detach().mT if self.rows else self.parameter.detach()


def constrain_(model: PeftModel, plan: Plan, seed: int) -> None:
    """Give every LoRA layer of `model` its start: one factor uniform on the manifold, the other N(0, 1/r), g = 0.

    Args:
        model: a PEFT model with the adapter "default".
        plan: names the constrained factor.
        seed: of both factors.

    Raises:
        PlanError: if the plan does not say which factor is constrained.
    """
    constrained, generator = fora_settings(plan).factor, torch.Generator().manual_seed(seed)
    for layer in lora_layers(model).values():
        gated, up = layer.lora_A[DEFAULT], layer.lora_B[DEFAULT].weight
        assert isinstance(gated, GatedDown) and isinstance(up, Tensor)
        down = gated.factor
        rank = down.shape[0]
        # Drawn and orthonormalised in float64, so that the float32 factor is as orthonormal as its rounding allows.
        a, b = (torch.randn(part.shape, generator=generator, dtype=torch.float64) for part in (down, up))
        if constrained == "B":
            b, a = orthonormal(b), a / rank**0.5
        else:
            a, b = orthonormal(a.T).T.contiguous(), b / rank**0.5
        up.data.copy_(b)
        down.data.copy_(a)


def draw_diagonals_(model: PeftModel, seed: int) -> None:
    """Give every LoRA layer of `model` KaSA's start: A and B as they are, d ~ N(0, 1).

    Args:
        model: a PEFT model with the adapter "default" of the form "truncated".
        seed: of the diagonals.
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in lora_layers(model).values():
        gate = layer.lora_A[DEFAULT].gate
        assert isinstance(gate, Tensor)
        gate.data.copy_(torch.randn(gate.shape, generator=generator))


def constrained_factors(model: nn.Module) -> dict[str, Constrained]:
    """The factors of `model` that training has to keep orthonormal, by module name; none for other adapters.

    Raises:
        AdapterError: if the adapter has gates but its plan is not known.
    """
    adapter = trained_adapter(model)
    layers = {
        name: layer
        for name, layer in lora_layers(model).items()
        if is_gated(layer, adapter) and not truncates(layer, adapter)
    }
    if not layers:
        return {}
    rows = training_settings(model).factor == "A"
    parts = {
        name: layer.lora_A[adapter].factor if rows else layer.lora_B[adapter].weight for name, layer in layers.items()
    }
    return {name: Constrained(parameter, rows) for name, parameter in parts.items()}  # type: ignore[arg-type]  # parameters


def is_gated(layer: Any, adapter: str = DEFAULT) -> bool:
    """Whether an adapter of a LoRA layer has a gate."""
    return adapter in layer.lora_A and isinstance(layer.lora_A[adapter], GatedDown)


def truncates(layer: Any, adapter: str = DEFAULT) -> bool:
    """Whether an adapter of a LoRA layer is KaSA's: a gate, and a part of the weight that it drops."""
    return adapter in layer.lora_A and isinstance(layer.lora_A[adapter], TruncatedDown)


def training_settings(model: nn.Module) -> Any:
    """How the constrained factors of `model` are moved.

    Raises:
        AdapterError: if the plan of the adapter is not known.
    """
    provenance = provenance_of(model)
    if provenance is None:
        raise AdapterError(
            "the adapter has gates, and nothing says which of its factors is orthonormal",
            do="load a folder of `farss.adapters.files.save_adapter`, which keeps the plan beside the adapter",
        )
    return fora_settings(provenance.plan)


def fora_settings(plan: Plan) -> Any:
    """The group `fora` of the settings a plan was made with.

    Raises:
        PlanError: if there is none.
    """
    if "fora" not in plan.settings:
        raise PlanError(
            "a constrained plan must name its constrained factor",
            where="settings.fora",
            expected="the group `fora` of the init settings",
            do="make the plan again with `farss init`",
        )
    return registry().group_named("fora").from_mapping(plan.settings["fora"], "settings.fora")
