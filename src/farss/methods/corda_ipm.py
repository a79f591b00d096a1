"""CorDA, instruction-previewed: adapters start from what matters most on the task."""

from __future__ import annotations

from farss.methods.corda import Corda

CORDA_IPM = Corda(
    name="corda-ipm",
    summary="largest components of W C, C from the inputs on the task's rows, at rank R",
    needs=frozenset({"input_covariance"}),
    end="high",
)
"""The instruction-previewed mode of CorDA (NeurIPS 2024)."""
