"""KaSA: the smallest singular components of every weight are dropped, and a product with a trained diagonal added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from farss.adapters.forms import AdapterForm
from farss.config import FarssConfig
from farss.errors import PlanError
from farss.method_settings import MethodSettings
from farss.methods.base import Evidence, adapter_scale, quantiles, warn_capped
from farss.methods.compat import published_code_config
from farss.methods.kasa.aid import KasaAid
from farss.methods.kasa.form import Dropping
from farss.methods.kasa.settings import KasaConfig
from farss.methods.look import Look
from farss.methods.owned import plan_settings
from farss.model.plan import Plan, TargetPlan
from farss.model.targets import Target
from farss.training.aids import TrainingAid


@dataclass(frozen=True)
class Kasa:
    """KaSA: Knowledge-Aware Singular-Value Adaptation (ICLR 2025), `W_k-r + s B diag(d) A`.

    A is drawn as LoRA's, B = 0, d ~ N(0, 1). Of the k = min(m, n) components the r smallest are dropped; `kasa.drop`
    also knows what the published code does, and dropping nothing. The start is the truncated model: its outputs differ
    from the base's by the dropped part, of spectral norm `sigma_{k-r+1}` in each module. Small models can depend on
    what is small: training warns where the loss rises. The weights themselves stay as they are: the adapter
    subtracts what is dropped.
    """

    name: str = "kasa"
    summary: str = "drops the smallest singular components and trains B diag(d) A under two regularisers"
    needs: frozenset[str] = frozenset({"spectrum"})
    trains: Literal["adapter", "weights"] = "adapter"
    look: Look | None = None
    settings: tuple[type[MethodSettings], ...] = (KasaConfig,)
    aids: tuple[type[TrainingAid], ...] = (KasaAid,)
    form: AdapterForm = field(default_factory=Dropping)

    def plan(self, targets: Sequence[Target], evidence: Evidence, config: FarssConfig) -> Plan:
        """Rank R for every target, or what its size allows, one direction at least being left; what is dropped.

        Raises:
            PlanError: if there are no spectra, or a module has a single direction.
        """
        config = published_code_config(config)
        planned = tuple(self._plan_target(target, evidence, config) for target in targets)
        warn_capped(self.name, [config.rank] * len(targets), planned)
        return Plan(
            method=self.name,
            initialisation=self.form.name,
            base="reference",  # what is dropped is subtracted by an adapter, whatever the recipe's form
            model_fingerprint=evidence.model_fingerprint,
            settings=plan_settings(self, config),
            targets=planned,
        )

    def _plan_target(self, target: Target, evidence: Evidence, config: FarssConfig) -> TargetPlan:
        sigma = evidence.sigma(target)
        k = len(sigma)
        rank = min(config.rank, k)
        if _dropped(target.shape, rank, config.of(KasaConfig).drop) == k:
            rank -= 1
        if rank < 1:
            raise PlanError(
                "dropping a direction would leave nothing of the weight",
                where=target.name,
                got=f"a weight of shape {target.shape}",
                do="list the module under `exclude`",
            )
        return TargetPlan(
            name=target.name,
            layer=target.layer,
            region="deep",
            shape=target.shape,
            rank=rank,
            scale=adapter_scale(rank, config),
            indices=tuple(range(k - _dropped(target.shape, rank, config.of(KasaConfig).drop), k)),
            log_score_quantiles=quantiles(sigma.log()),
        )


def _dropped(shape: tuple[int, int], rank: int, drop: str) -> int:
    """How many of the smallest components of a weight [m, n] are dropped, 0 to `rank`."""
    m, n = shape
    published = max(min(m, n) - max(n - rank, 0), 0)
    return {"smallest": rank, "published": published, "nothing": 0}[drop]


KASA = Kasa(look=Look("KaSA", "#068fa7", "cross"))
