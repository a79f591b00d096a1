"""FoRA: fewer layers, chosen by their Fisher information, with an orthonormal factor in each adapter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from farss.adapters.forms import AdapterForm
from farss.config import FarssConfig
from farss.errors import PlanError
from farss.method_settings import MethodSettings
from farss.methods.base import Evidence, adapter_scale, warn_capped
from farss.methods.compat import published_code_config
from farss.methods.fora.aid import HeldFactors
from farss.methods.fora.form import Constrained
from farss.methods.fora.settings import ForaConfig
from farss.methods.look import Look
from farss.methods.owned import plan_settings
from farss.model.plan import Plan, TargetPlan
from farss.model.targets import Target
from farss.training.aids import TrainingAid


@dataclass(frozen=True)
class Fora:
    """Fisher-orthogonal Rank Adaptation: the top floor(rho L) layers, `W + s g B A` with B'B = I and g = 0 at first."""

    name: str = "fora"
    summary: str = "orthonormal B at rank R in the layers of largest Fisher information"
    needs: frozenset[str] = frozenset({"layer_fisher"})
    trains: Literal["adapter", "weights"] = "adapter"
    look: Look | None = None
    settings: tuple[type[MethodSettings], ...] = (ForaConfig,)
    aids: tuple[type[TrainingAid], ...] = (HeldFactors,)
    form: AdapterForm = field(default_factory=Constrained)

    def plan(self, targets: Sequence[Target], evidence: Evidence, config: FarssConfig) -> Plan:
        """Rank R, or the module's size where that is smaller, for every target of the chosen layers.

        Args:
            targets: in model order, all inside layers.
            evidence: must hold the layer scores.
            config: `rank`, the scale and `fora` are read.

        Raises:
            PlanError: if the layer scores are missing, a target belongs to no layer, or no layer would be chosen.
        """
        config = published_code_config(config)
        scores = _scores(targets, evidence, config)
        layers = top_layers(scores, config.of(ForaConfig).rho)
        chosen = [target for target in targets if target.layer in layers]
        ranks = [min(config.rank, *target.shape) for target in chosen]
        planned = tuple(
            TargetPlan(target.name, target.layer, "deep", target.shape, rank, adapter_scale(rank, config))
            for target, rank in zip(chosen, ranks, strict=True)
        )
        warn_capped(self.name, [config.rank] * len(chosen), planned)
        return Plan(
            method=self.name,
            initialisation=self.form.name,
            base="reference",  # the gate starts at zero: there is nothing to subtract in either form
            model_fingerprint=evidence.model_fingerprint,
            settings=plan_settings(self, config),
            targets=planned,
            data=evidence.data,
            layer_scores={str(layer): score for layer, score in scores.items()},
        )


def top_layers(scores: dict[int, float], rho: float) -> frozenset[int]:
    """The floor(rho L) layers of largest score; of equal ones the lower index.

    Args:
        scores: layer index -> score, for all L layers.
        rho: the share of layers, in (0, 1], taken as the decimal number it is written as.

    Raises:
        PlanError: if that is no layer at all.
    """
    count = math.floor(Fraction(str(rho)) * len(scores))
    if count == 0:
        raise PlanError(
            "the share of layers leaves none to adapt",
            where="fora.rho",
            expected=f"at least 1/{len(scores)} for {len(scores)} layers",
            got=rho,
        )
    return frozenset(sorted(scores, key=lambda layer: (-scores[layer], layer))[:count])


def _scores(targets: Sequence[Target], evidence: Evidence, config: FarssConfig) -> dict[int, float]:
    found = evidence.of("layer_fisher", "fora")
    outside = [target.name for target in targets if target.layer is None]
    if outside:
        raise PlanError(
            "layers are chosen, and a module belongs to no layer",
            where=", ".join(outside[:3]),
            got=f"{len(outside)} such modules",
            do="list them under `exclude`",
        )
    return found.scores(targets, config.of(ForaConfig).score)


FORA = Fora(look=Look("FoRA", "#086a73", "dome"))
