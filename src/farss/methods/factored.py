"""Methods that make the factors an adapter starts from themselves: `FactorMethod`, and a file per method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor

from farss.config import FarssConfig
from farss.errors import NumericalError
from farss.method_settings import MethodSettings
from farss.methods.base import Evidence, adapter_scale, warn_capped
from farss.methods.compat import published_code_config
from farss.methods.look import Look
from farss.methods.owned import plan_settings
from farss.methods.start_settings import StartConfig
from farss.methods.statistics import INPUTS, KNOWLEDGE, SPECTRUM
from farss.model.plan import Frozen, Plan, TargetPlan
from farss.model.start import Factors, adapter_dtype, factors_digest
from farss.model.targets import Target, weight_matrix
from farss.statistics.inputs import InputMoments


@dataclass(frozen=True)
class FactorMethod(ABC):
    """A method that gives B0 and A0 of every module; the function starts as the base model's in either form.

    Attributes:
        name: registry name.
        summary: one line for lists.
        needs: what `Evidence` must hold.
        frozen: the side of the adapter that training leaves as it starts.
        look: its label, colour and mark in tables and figures; made from the name if it has none.
    """

    name: str
    summary: str
    needs: frozenset[str] = frozenset()
    frozen: Frozen = "none"
    look: Look | None = None

    settings: ClassVar[tuple[type[MethodSettings], ...]] = (StartConfig,)

    divided: ClassVar[bool] = False
    """Whether the factors are divided by the root of the scale, so that `scale * B0 A0` is what `factors` returns."""

    @property
    def trains(self) -> Literal["adapter", "weights"]:
        """Adapters."""
        return "adapter"

    @abstractmethod
    def factors(self, target: Target, rank: int, evidence: Evidence, config: FarssConfig) -> Factors:
        """B0 [m, r] and A0 [r, n] of one module, any float, r at most `rank`."""

    def ranks(self, targets: Sequence[Target], evidence: Evidence, config: FarssConfig) -> list[int]:
        """The rank asked for every target: R, the same for all."""
        return [config.rank] * len(targets)

    def limit(self, target: Target) -> int:
        """The largest rank the method can give a module."""
        return min(target.shape)

    def scale(self, rank: int, config: FarssConfig) -> float:
        """The factor in front of BA of a module of this rank."""
        return adapter_scale(rank, config)

    def data(self, evidence: Evidence) -> dict[str, object] | None:
        """Fingerprint of the data the factors were made from, None if from none."""
        taken = sorted(self.needs - {SPECTRUM})
        return evidence.data_of(taken[0]) if taken else None

    def moments(self, target: Target, evidence: Evidence) -> InputMoments:
        """The moments of inputs on what the method needs them of: knowledge questions, or the task's data.

        Raises:
            PlanError: if there are none.
        """
        name = KNOWLEDGE.name if KNOWLEDGE.name in self.needs else INPUTS.name
        return cast(InputMoments, evidence.of(name, target.name))

    def plan(self, targets: Sequence[Target], evidence: Evidence, config: FarssConfig) -> Plan:
        """Factors, ranks and scales of every target.

        Args:
            targets: in model order.
            evidence: must hold what `needs` names.
            config: rank, scale, form, and the choices of `init.start`.

        Returns:
            Plan with initialisation "factors", the factors in it in the dtype of adapters.

        Raises:
            PlanError: if evidence is missing.
            NumericalError: if factors are not finite, or a weight gives none.
        """
        config = published_code_config(config)
        wanted = self.ranks(targets, evidence, config)
        rows, start = [], {}
        for target, asked in zip(targets, wanted, strict=True):
            made = self.factors(target, min(asked, self.limit(target)), evidence, config)
            rank = made.up.shape[1]
            rows.append(TargetPlan(target.name, target.layer, "deep", target.shape, rank, self.scale(rank, config)))
            start[target.name] = self._stored(made, rows[-1], target)
        warn_capped(self.name, wanted, rows)
        return Plan(
            method=self.name,
            initialisation="factors",
            base=config.base,
            model_fingerprint=evidence.model_fingerprint,
            settings=plan_settings(self, config),
            targets=tuple(rows),
            data=self.data(evidence),
            frozen=self.frozen,
            factors_digest=factors_digest(start),
            start=start,
        )

    def _stored(self, made: Factors, row: TargetPlan, target: Target) -> Factors:
        root = row.scale**-0.5 if self.divided else 1.0
        dtype = adapter_dtype(weight_matrix(target))
        up, down = ((root * side).to("cpu", dtype).contiguous() for side in (made.up, made.down))
        if not bool(up.isfinite().all() and down.isfinite().all()):
            raise NumericalError("the start factors are not finite", where=row.name, do="check the weight and the data")
        return Factors(up, down)


def balanced(left: Tensor, sigma: Tensor, right: Tensor) -> Factors:
    """`B = U sqrt(Sigma)`, `A = sqrt(Sigma) V'`: left [m, r], sigma [r], right [n, r]."""
    root = sigma.sqrt()
    return Factors(left * root, root[:, None] * right.T)


def exact_weight(target: Target) -> Tensor:
    """The weight [m, n] in float64, on its device."""
    return weight_matrix(target).to(torch.float64)
