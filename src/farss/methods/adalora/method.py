"""AdaLoRA: ranks are cut during training, where triplets of a singular decomposition matter least."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from farss.adapters.forms import AdapterForm
from farss.config import FarssConfig
from farss.errors import PlanError
from farss.method_settings import MethodSettings
from farss.methods.adalora.aid import RankBudget
from farss.methods.adalora.form import Triplets
from farss.methods.adalora.settings import AdaloraConfig
from farss.methods.base import Evidence, adapter_scale, warn_capped
from farss.methods.compat import published_code_config
from farss.methods.look import Look
from farss.methods.owned import plan_settings
from farss.model.plan import Plan, TargetPlan
from farss.model.targets import Target
from farss.training.aids import TrainingAid

INITIAL_PER_FINAL = 1.5
"""Initial ranks as a multiple of the final average, as published."""


@dataclass(frozen=True)
class Adalora:
    """Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning (ICLR 2023), `W + s P diag(e) Q`, e = 0.

    The adapter and the allocation are PEFT's, with one initial rank for all modules. The scale is that of the initial
    rank and stays when ranks are cut, as published.
    """

    name: str = "adalora"
    summary: str = "ranks cut during training to R on average, by the importance of each direction; needs no data"
    needs: frozenset[str] = frozenset()
    trains: Literal["adapter", "weights"] = "adapter"
    look: Look | None = None
    settings: tuple[type[MethodSettings], ...] = (AdaloraConfig,)
    aids: tuple[type[TrainingAid], ...] = (RankBudget,)
    form: AdapterForm = field(default_factory=Triplets)

    def largest_rank(self, targets: Sequence[Target]) -> int:
        """The largest R there is something to cut down to: below what the smallest module can start with."""
        return min(min(target.shape) for target in targets) - 1

    def plan(self, targets: Sequence[Target], evidence: Evidence, config: FarssConfig) -> Plan:
        """The initial rank for every target: the configured one, or the size of the smallest module if that is less.

        Raises:
            PlanError: if that is not above R, so that there is nothing to cut.
        """
        config = published_code_config(config)
        asked = config.of(AdaloraConfig).initial_rank or math.ceil(INITIAL_PER_FINAL * config.rank)
        rank = min([asked, *(min(target.shape) for target in targets)])
        if rank <= config.rank:
            raise PlanError(
                "there is nothing to cut: the initial rank has to exceed the final average",
                where="adalora.initial_rank",
                expected=f"above {config.rank} (`rank`), and no more than the smallest module has",
                got=rank,
                do="lower `rank`, raise `adalora.initial_rank`, or list small modules under `exclude`",
            )
        scale = adapter_scale(rank, config)
        planned = tuple(TargetPlan(t.name, t.layer, "deep", t.shape, rank, scale) for t in targets)
        warn_capped(self.name, [asked] * len(targets), planned)
        return Plan(
            method=self.name,
            initialisation=self.form.name,
            base="reference",  # e = 0: there is nothing to subtract in either form
            model_fingerprint=evidence.model_fingerprint,
            settings=plan_settings(self, config),
            targets=planned,
        )


ADALORA = Adalora(look=Look("AdaLoRA", "#495cc9", "hourglass"))
