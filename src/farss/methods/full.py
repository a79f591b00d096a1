"""Full fine-tuning: all weights are trained, no adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from farss.config import FarssConfig
from farss.methods.base import Evidence
from farss.methods.compat import published_code_config
from farss.methods.look import Look
from farss.methods.owned import plan_settings
from farss.model.plan import Plan
from farss.model.targets import Target


@dataclass(frozen=True)
class Full:
    """Full fine-tuning, the denominator of T (Eq. 37)."""

    name: str = "full"
    summary: str = "trains all weights; the reference of the task measures"
    needs: frozenset[str] = frozenset()
    trains: Literal["adapter", "weights"] = "weights"
    look: Look | None = None

    def plan(self, targets: Sequence[Target], evidence: Evidence, config: FarssConfig) -> Plan:
        """A plan without targets: the targets given are ignored, since every weight is trained."""
        return Plan(
            method=self.name,
            initialisation="none",
            base="reference",
            model_fingerprint=evidence.model_fingerprint,
            settings=plan_settings(self, published_code_config(config)),
            targets=(),
        )


FULL = Full(look=Look("full fine-tuning", "#3d3f46", "square"))
