"""KaSA's adapter: a product with a trained diagonal, on weights of which it drops a part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from farss.adapters.forms import Chosen
from farss.adapters.gated import draw_diagonals_
from farss.adapters.shapes import Shape
from farss.adapters.sides import TruncatedDown, TruncatedUp
from farss.model.plan import Plan

if TYPE_CHECKING:
    from peft import PeftModel


class Truncated(Shape):
    """A diagonal before A, and a part of the weight that is dropped."""

    share = 2
    marks = frozenset({"A.gate", "A.start"})

    def sides(self, layer: Any, adapter: str) -> tuple[nn.Module, nn.Module]:
        """Dropout moves into A: what is dropped of the weight sees the whole input."""
        down, up = layer.lora_A[adapter].weight.detach(), layer.lora_B[adapter].weight.detach()
        a = TruncatedDown(down, torch.ones(len(down), 1).to(down), layer.lora_dropout[adapter])
        layer.lora_dropout[adapter] = nn.Identity()
        return a, TruncatedUp(up)


class Dropping(Chosen):
    """`W + s B diag(d) A` on W without the directions that the plan names; B = 0 and d ~ N(0, 1) at first."""

    name = "truncated"
    drops = True
    shapes = (Truncated,)

    def further_parameters(self, shape: tuple[int, int], rank: int) -> int:
        """The diagonal."""
        return rank

    def shape(self, plan: Plan, *, subtracts: bool) -> Shape:
        """With a diagonal, whether or not anything is dropped."""
        return Truncated(plan.frozen)

    def begin_(self, model: PeftModel, plan: Plan, seed: int) -> None:
        """Diagonals are drawn."""
        draw_diagonals_(model, seed)
