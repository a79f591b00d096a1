"""LoRA: adapters start from A random and B zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from farss.adapters.forms import DRAWN, AdapterForm
from farss.config import FarssConfig, Scale
from farss.methods.base import Evidence, adapter_scale, warn_capped
from farss.methods.compat import published_code_config
from farss.methods.look import Look
from farss.methods.owned import plan_settings
from farss.model.plan import Plan, TargetPlan
from farss.model.targets import Target


@dataclass(frozen=True)
class Lora:
    """LoRA: Low-Rank Adaptation of Large Language Models (ICLR 2022), A ~ U(-1/sqrt(n), 1/sqrt(n)), B = 0.

    Attributes:
        scale: replaces the configuration's, for variants that are named after theirs.
        form: of its adapters, for variants with one of their own that starts at the base model.
    """

    name: str = "lora"
    summary: str = "random start at rank R in every layer; needs no data"
    needs: frozenset[str] = frozenset()
    trains: Literal["adapter", "weights"] = "adapter"
    look: Look | None = None
    scale: Scale | None = None
    form: AdapterForm = DRAWN

    def plan(self, targets: Sequence[Target], evidence: Evidence, config: FarssConfig) -> Plan:
        """Rank R, or the module's size where that is smaller, for every target; the base weights stay as they are."""
        config = published_code_config(config)
        config = config if self.scale is None else replace(config, scale=self.scale)
        ranks = [min(config.rank, *target.shape) for target in targets]
        planned = tuple(
            TargetPlan(target.name, target.layer, "deep", target.shape, rank, adapter_scale(rank, config))
            for target, rank in zip(targets, ranks, strict=True)
        )
        warn_capped(self.name, [config.rank] * len(targets), planned)
        return Plan(
            method=self.name,
            initialisation=self.form.name,
            base="reference",  # B0 = 0: there is nothing to subtract in either form
            model_fingerprint=evidence.model_fingerprint,
            settings=plan_settings(self, config),
            targets=planned,
        )


LORA = Lora(look=Look("LoRA", "#0068ad", "diamond"))
