"""AdaLoRA's adapter: PEFT's, with triplets (a column of P, an entry of e, a row of Q) that training cuts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from farss.adapters.configs import RankAndScale
from farss.adapters.forms import AdapterForm
from farss.adapters.shapes import Shape
from farss.adapters.triplets import check_alike, refuse_another_, triplet_config
from farss.model.plan import Plan

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel


class Triplets(AdapterForm):
    """`W + s P diag(e) Q`, a diagonal of zeros between random factors at first; training cuts the rank."""

    name = "triplets"

    def further_parameters(self, shape: tuple[int, int], rank: int) -> int:
        """The diagonal."""
        return rank

    def check(self, model: nn.Module, plan: Plan) -> None:
        """Refuse modules that do not all start alike, as PEFT has it.

        Raises:
            AdapterError: if they do not, or the settings of the method are missing.
        """
        check_alike(plan)

    def ranks(self, plan: Plan, shape: Shape) -> dict[str, RankAndScale]:
        """Here PEFT keeps alpha itself as the scaling, and divides by the rank in the forward pass."""
        return {row.name: RankAndScale(row.rank, row.scale * row.rank) for row in plan.targets}

    def config(self, model: nn.Module, plan: Plan, shape: Shape, dropout: float) -> PeftConfig:
        """PEFT's AdaLoRA; training sets its schedule."""
        return triplet_config(model, plan, dropout)

    def join_(self, model: PeftModel) -> None:
        """A second adapter is refused."""
        refuse_another_(model)
