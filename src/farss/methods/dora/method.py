"""DoRA: LoRA for the directions of a weight's rows, and a trained norm for every row."""

from __future__ import annotations

from farss.methods.dora.form import Magnitudes
from farss.methods.look import Look
from farss.methods.lora import Lora

DORA = Lora(
    name="dora",
    summary="LoRA on the directions of the weight's rows, their norms trained beside it; needs no data",
    look=Look("DoRA", "#1f4192", "right"),
    form=Magnitudes(),
)
"""DoRA: Weight-Decomposed Low-Rank Adaptation (ICML 2024), `W' = m * (W + s B A) / ||W + s B A||`, norms over rows.

The magnitudes m [out] start as the norms of W. The norm in the denominator takes no gradient, as published.
"""
