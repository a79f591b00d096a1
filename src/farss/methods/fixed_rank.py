"""Fixed-rank: FARSS with one rank for all shallow modules."""

from __future__ import annotations

from farss.methods.base import SpectralMethod
from farss.methods.look import Look

FIXED_RANK = SpectralMethod(
    name="fixed-rank",
    summary="FARSS with the fixed rank r_avg in shallow layers instead of inverse-Fisher ranks",
    look=Look("fixed-rank", "#9b5f55", "bowtie"),
    score="fisher",
    shallow="low",
    deep="high",
    shallow_rank="fixed",
    selectable=True,
)
"""The ablation of Figure 4 of the FARSS paper; the fixed rank is `r_avg`."""
