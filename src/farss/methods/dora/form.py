"""DoRA's adapter: PEFT's, with a trained norm for every row of the weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from farss.adapters.configs import lora_config
from farss.adapters.forms import AdapterForm
from farss.adapters.magnitude import check_norms, start_magnitudes_
from farss.adapters.shapes import Shape, mark_
from farss.model.plan import Plan

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel


class Magnitudes(AdapterForm):
    """`W' = m * (W + s B A) / ||W + s B A||` on untouched weights, row by row; B = 0 and m the norms at first."""

    name = "magnitude"
    reads_norms = True
    low_rank = False

    def further_parameters(self, shape: tuple[int, int], rank: int) -> int:
        """The m magnitudes."""
        return shape[0]

    def check(self, model: nn.Module, plan: Plan) -> None:
        """Refuse weights with rows of zeros.

        Raises:
            AdapterError: naming the first such module.
        """
        check_norms(model, plan)

    def config(self, model: nn.Module, plan: Plan, shape: Shape, dropout: float) -> PeftConfig:
        """LoRA's, with magnitudes."""
        return mark_(lora_config(model, self.ranks(plan, shape), dropout=dropout, use_dora=True), shape)

    def begin_(self, model: PeftModel, plan: Plan, seed: int) -> None:
        """Magnitudes begin as norms."""
        start_magnitudes_(model)
