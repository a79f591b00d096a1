"""PiSSA: adapters start from the largest singular components."""

from __future__ import annotations

from farss.methods.base import SpectralMethod
from farss.methods.look import Look

PISSA = SpectralMethod(
    name="pissa",
    summary="largest singular values at rank R in every layer; needs no data",
    look=Look("PiSSA", "#b37400", "up"),
    score="sigma",
    shallow="high",
    deep="high",
)
"""PiSSA: Principal Singular Values and Singular Vectors Adaptation of Large Language Models (NeurIPS 2024)."""
