"""What the two forms of CorDA share: components of a weight ordered by the singular values of W C."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from farss.config import FarssConfig
from farss.maths.contexts import context_components, damped, unit_trace
from farss.methods.base import Evidence
from farss.methods.factored import FactorMethod, balanced, exact_weight
from farss.methods.start_settings import StartConfig
from farss.model.start import Factors
from farss.model.targets import Target
from farss.statistics.inputs import InputMoments


@dataclass(frozen=True)
class Corda(FactorMethod):
    """`B = U sqrt(Sigma / s)`, `A = sqrt(Sigma / s) V' inverse(C)` with `W C = U Sigma V'`, C damped.

    CorDA: Context-Oriented Decomposition Adaptation of Large Language Models (NeurIPS 2024). C is the second moment of
    the inputs with trace n. The published code divides each sample by its signed maximum first:
    `init.start.covariance_scale: signed_maximum`.

    Attributes:
        end: the components an adapter gets.
    """

    end: Literal["high", "low"] = "high"

    divided = True

    def factors(self, target: Target, rank: int, evidence: Evidence, config: FarssConfig) -> Factors:
        """The components at one end."""
        weight = exact_weight(target)
        moment = covariance(self.moments(target, evidence), target, config).to(weight.device)
        whole, inverse = damped(moment, config.of(StartConfig).damping)
        return balanced(*context_components(weight, whole, inverse, rank, self.end))


def covariance(moments: InputMoments, target: Target, config: FarssConfig) -> Tensor:
    """C, [n, n] float64, under `init.start.covariance_scale`."""
    if config.of(StartConfig).covariance_scale == "signed_maximum":
        return moments.scaled_second_moment(target)
    return unit_trace(moments.second_moment(target))
