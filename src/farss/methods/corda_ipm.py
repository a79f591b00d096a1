"""CorDA, instruction-previewed: adapters start from what matters most on the task."""

from __future__ import annotations

from farss.methods.corda import Corda
from farss.methods.look import Look

CORDA_IPM = Corda(
    name="corda-ipm",
    summary="largest components of W C, C from the inputs on the task's rows, at rank R",
    look=Look("CorDA-IPM", "#a86fcf", "star4"),
    needs=frozenset({"input_covariance"}),
    end="high",
)
"""The instruction-previewed mode of CorDA (NeurIPS 2024)."""
