"""CorDA, knowledge-preserved: adapters start from what matters least on knowledge questions."""

from __future__ import annotations

from farss.methods.corda import Corda
from farss.methods.look import Look

CORDA_KPM = Corda(
    name="corda-kpm",
    summary="smallest components of W C, C from the inputs on knowledge questions, at rank R",
    look=Look("CorDA-KPM", "#6e38b8", "star"),
    needs=frozenset({"knowledge_covariance"}),
    end="low",
)
"""The knowledge-preserved mode of CorDA (NeurIPS 2024); questions come from `data.knowledge_calibration`."""
