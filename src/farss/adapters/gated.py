"""Adapters with a gate: FoRA's `s g B A` and KaSA's `s B diag(d) A`.

FoRA has one orthonormal factor and a trained number g that is zero at the start; KaSA a trained diagonal, on a
truncated W. They are ordinary LoRA layers of PEFT whose A is `g A` or `diag(d) A`: merging, scaling and exporting see
the folded product and need not know of the gate. Files hold the folded A, which any loader reads, beside A and g
themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from farss.adapters.layers import DEFAULT, REFERENCE, lora_layers
from farss.adapters.provenance import provenance_of
from farss.config import ForaConfig
from farss.errors import AdapterError, PlanError
from farss.maths.stiefel import orthonormal
from farss.model.plan import Plan

if TYPE_CHECKING:
    from peft import PeftModel

FOLDED = "weight"


class GatedDown(nn.Module):
    """`x` through `g A` or `diag(g) A`: [..., n] to [..., r]; stands where PEFT keeps A.

    Args:
        factor: A [r, n].
        gate: g [1, 1], or d [r, 1]; PEFT takes flat tensors of an adapter for damaged ones.
    """

    def __init__(self, factor: Tensor, gate: Tensor) -> None:
        super().__init__()
        self.out_features, self.in_features = factor.shape
        self.factor, self.gate = nn.Parameter(factor), nn.Parameter(gate)

    @property
    def weight(self) -> Tensor:
        """`g A`, [r, n], what PEFT takes for A; gradients pass to both parts."""
        return self.gate * self.factor

    def forward(self, x: Tensor) -> Tensor:
        """`g A x`."""
        return functional.linear(x, self.weight)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + FOLDED] = self.weight.detach()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        state_dict.pop(prefix + FOLDED, None)  # follows from the other two
        super()._load_from_state_dict(state_dict, prefix, *rest)


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
        down, up = layer.lora_A[DEFAULT].weight, layer.lora_B[DEFAULT].weight
        assert isinstance(down, Tensor) and isinstance(up, Tensor)
        rank = down.shape[0]
        # Drawn and orthonormalised in float64, so that the float32 factor is as orthonormal as its rounding allows.
        a, b = (torch.randn(part.shape, generator=generator, dtype=torch.float64) for part in (down, up))
        if constrained == "B":
            b, a = orthonormal(b), a / rank**0.5
        else:
            a, b = orthonormal(a.T).T.contiguous(), b / rank**0.5
        up.data.copy_(b)
        layer.lora_A[DEFAULT] = GatedDown(a.to(down), torch.zeros(1, 1).to(down))


def draw_diagonals_(model: PeftModel, seed: int) -> None:
    """Give every LoRA layer of `model` KaSA's start: A and B as they are, d ~ N(0, 1).

    Args:
        model: a PEFT model with the adapter "default", not yet joined to a reference.
        seed: of the diagonals.
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in lora_layers(model).values():
        down = layer.lora_A[DEFAULT].weight
        assert isinstance(down, Tensor)
        diagonal = torch.randn(down.shape[0], 1, generator=generator).to(down)
        layer.lora_A[DEFAULT] = GatedDown(down.detach(), diagonal)


def restore_gates_(model: PeftModel, stored: Mapping[str, Tensor], *, trainable: bool) -> None:
    """Put A and g of a file in the place of their product, which PEFT has loaded; without gates nothing changes.

    Args:
        model: a PEFT model as its own loader made it.
        stored: the tensors of the file.
        trainable: whether A and g require gradients.
    """
    for name, layer in lora_layers(model).items():
        prefix = f"base_model.model.{name}.lora_A"
        if f"{prefix}.gate" not in stored:
            continue
        like = layer.lora_A[DEFAULT].weight
        assert isinstance(like, Tensor)
        gated = GatedDown(stored[f"{prefix}.factor"].to(like), stored[f"{prefix}.gate"].to(like))
        layer.lora_A[DEFAULT] = gated.requires_grad_(trainable)


def constrained_factors(model: nn.Module) -> dict[str, Constrained]:
    """The factors of `model` that training has to keep orthonormal, by module name; none for other adapters.

    Raises:
        AdapterError: if the adapter has gates but its plan is not known.
    """
    layers = {name: layer for name, layer in lora_layers(model).items() if is_gated(layer) and not truncates(layer)}
    if not layers:
        return {}
    rows = training_settings(model).factor == "A"
    parts = {
        name: layer.lora_A[DEFAULT].factor if rows else layer.lora_B[DEFAULT].weight for name, layer in layers.items()
    }
    return {name: Constrained(parameter, rows) for name, parameter in parts.items()}  # type: ignore[arg-type]  # parameters


def is_gated(layer: Any) -> bool:
    """Whether a LoRA layer has a gate."""
    return DEFAULT in layer.lora_A and isinstance(layer.lora_A[DEFAULT], GatedDown)


def truncates(layer: Any) -> bool:
    """Whether a LoRA layer is KaSA's: a gate, and a frozen adapter beside it that subtracts what is dropped."""
    return is_gated(layer) and REFERENCE in layer.lora_A


def training_settings(model: nn.Module) -> ForaConfig:
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


def fora_settings(plan: Plan) -> ForaConfig:
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
    return ForaConfig.from_mapping(plan.settings["fora"], "settings.fora")
