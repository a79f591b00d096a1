"""What the adapter of a plan is made of, and how PEFT is told: one mark on the configuration."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from farss.adapters.sides import (
    GatedDown,
    PairedDown,
    PairedUp,
    ResidualDown,
    ResidualUp,
    TruncatedDown,
    TruncatedUp,
    held,
)
from farss.model.plan import Frozen, Plan

if TYPE_CHECKING:
    from peft import LoraConfig

Kind = Literal["plain", "pair", "residual", "gated", "truncated"]

# Kept on the configuration object, which PEFT hands to every layer; it is no field, so no file and no copy with other
# ranks (PEFT's combinations of adapters, which are plain) has it.
_ATTRIBUTE = "farss_form"


@dataclass(frozen=True)
class Form:
    """How the sides of an adapter are made.

    Attributes:
        kind: "plain" is a product BA; "pair" subtracts what it started from; "residual" stands beside a base from
            which that was taken; "gated" has a number before A (FoRA); "truncated" a diagonal, and a part of the
            weight that it drops (KaSA).
        frozen: the side that stays as it starts.
    """

    kind: Kind
    frozen: Frozen = "none"

    def width(self, rank: int) -> int:
        """The rank of the ordinary LoRA that an adapter of this form is to others, if `rank` is trained."""
        return rank if self.kind in ("plain", "gated") else 2 * rank

    def shape_(self, layer: Any, adapter: str) -> None:
        """Turn one adapter that PEFT has just made, of the rank that is trained, into this form."""
        a, b = layer.lora_A[adapter], layer.lora_B[adapter]
        down, up = a.weight.detach(), b.weight.detach()
        if self.kind == "pair":
            a, b = PairedDown(down), PairedUp(up)
        elif self.kind == "residual":
            a, b = ResidualDown(down), ResidualUp(up)
        elif self.kind == "gated":
            a = GatedDown(down, torch.zeros(1, 1).to(down))
            nn.init.normal_(b.weight, std=len(up) ** -0.5)  # behind a closed gate a zero would stay
        elif self.kind == "truncated":
            a = TruncatedDown(down, torch.ones(len(down), 1).to(down), layer.lora_dropout[adapter])
            b, layer.lora_dropout[adapter] = TruncatedUp(up), nn.Identity()
        if self.frozen != "none":
            a, b = (_keep(a), b) if self.frozen == "down" else (a, _keep(b))
        layer.lora_A[adapter], layer.lora_B[adapter] = a, b


def form_of_plan(plan: Plan, *, subtracts: bool) -> Form:
    """The form of the adapter of `plan`.

    Args:
        plan: of a method that trains an adapter.
        subtracts: whether it starts from factors whose product is not zero.
    """
    if plan.initialisation == "truncated":
        kind: Kind = "truncated"
    elif plan.initialisation == "constrained":
        kind = "gated"
    elif subtracts:
        kind = "residual" if plan.base == "residual" else "pair"
    else:
        kind = "plain"
    return Form(kind, plan.frozen)


def form_of_tensors(tensors: Iterable[str]) -> Form | None:
    """The form of a saved adapter by the names of its tensors; None for an ordinary LoRA."""
    endings = {name.partition(".lora_")[2] for name in tensors}
    kinds: dict[tuple[bool, bool], Kind] = {(True, False): "pair", (False, True): "gated", (True, True): "truncated"}
    kind = kinds.get(("A.start" in endings, "A.gate" in endings))
    return None if kind is None else Form(kind)


def mark_(config: LoraConfig, form: Form) -> LoraConfig:
    """`config`, whose adapters will have `form`; a plain adapter of which nothing is frozen stays PEFT's own."""
    from transformers.pytorch_utils import Conv1D

    from farss.adapters.started import StartedLinear

    if form != Form("plain"):
        setattr(config, _ATTRIBUTE, form)
        config._register_custom_module({nn.Linear: StartedLinear, Conv1D: StartedLinear})
    return config


def form_of(config: object) -> Form | None:
    """The form that a configuration is marked with; None where its adapters are PEFT's own."""
    return getattr(config, _ATTRIBUTE, None)


def _keep(side: nn.Module) -> nn.Module:
    if isinstance(side, nn.Linear):
        return held(side)
    side.held = True  # type: ignore[assignment]  # a flag of our sides
    return side
