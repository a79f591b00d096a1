"""LoRA-Null: adapters start in the near-null space of the inputs on knowledge questions."""

from __future__ import annotations

from farss.config import FarssConfig
from farss.maths.contexts import null_components, unit_trace
from farss.methods.base import Evidence
from farss.methods.factored import FactorMethod, balanced, exact_weight
from farss.methods.look import Look
from farss.model.start import Factors
from farss.model.targets import Target


class LoraNull(FactorMethod):
    """`P = W N N' = U Sigma V'`, `B = U sqrt(Sigma / s)`, `A = sqrt(Sigma / s) V'`.

    N are the r eigenvectors of the inputs' second moment with the smallest eigenvalues, so the inputs on knowledge
    questions hardly have a part in it.
    """

    divided = True

    def factors(self, target: Target, rank: int, evidence: Evidence, config: FarssConfig) -> Factors:
        """The part of the weight that reads the near-null space."""
        weight = exact_weight(target)
        moment = unit_trace(self.moments(target, evidence).second_moment(target)).to(weight.device)
        return balanced(*null_components(weight, moment, rank))


LORA_NULL = LoraNull(
    name="lora-null",
    summary="the part of W that reads the near-null space of knowledge inputs, at rank R",
    look=Look("LoRA-Null", "#c8368f", "hexagon"),
    needs=frozenset({"knowledge_covariance"}),
)
"""LoRA-Null (2025), first version: A and B are trained. Questions come from `data.knowledge_calibration`."""
