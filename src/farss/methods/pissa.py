"""PiSSA: adapters start from the largest singular components."""

from __future__ import annotations

from farss.methods.base import SpectralMethod

PISSA = SpectralMethod(
    name="pissa",
    summary="largest singular values at rank R in every layer; needs no data",
    score="sigma",
    shallow="high",
    deep="high",
)
"""PiSSA: Principal Singular Values and Singular Vectors Adaptation of Large Language Models (NeurIPS 2024)."""
