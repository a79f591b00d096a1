"""FoRA's adapter: a product with a number in front that is zero at the start, one factor orthonormal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from farss.adapters.forms import AdapterForm
from farss.adapters.gated import constrain_
from farss.adapters.shapes import Shape
from farss.adapters.sides import GatedDown
from farss.model.plan import Plan

if TYPE_CHECKING:
    from peft import PeftModel


class Gated(Shape):
    """A number before A."""

    marks = frozenset({"A.gate"})

    def sides(self, layer: Any, adapter: str) -> tuple[nn.Module, nn.Module]:
        """A closed gate; B is drawn, for behind it a zero would stay."""
        down, up = layer.lora_A[adapter].weight.detach(), layer.lora_B[adapter]
        nn.init.normal_(up.weight, std=len(up.weight) ** -0.5)
        return GatedDown(down, torch.zeros(1, 1).to(down)), up


class Constrained(AdapterForm):
    """`W + s g B A` on untouched weights, B or A orthonormal and g = 0 at first."""

    name = "constrained"
    shapes = (Gated,)

    def further_parameters(self, shape: tuple[int, int], rank: int) -> int:
        """The gate."""
        return 1

    def shape(self, plan: Plan, *, subtracts: bool) -> Shape:
        """With a gate; there is nothing to subtract."""
        return Gated(plan.frozen)

    def begin_(self, model: PeftModel, plan: Plan, seed: int) -> None:
        """One factor is drawn uniformly on the manifold, the other of normal numbers."""
        constrain_(model, plan, seed)
