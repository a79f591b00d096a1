"""All-high: FARSS with shallow layers treated as deep ones."""

from __future__ import annotations

from farss.methods.base import SpectralMethod
from farss.methods.look import Look

ALL_HIGH = SpectralMethod(
    name="all-high",
    summary="FARSS with the highest scores at rank R in shallow layers too",
    look=Look("all-high", "#812e19", "chevron"),
    score="fisher",
    shallow="high",
    deep="high",
    always_split=True,
)
"""The ablation of Table 6 of the FARSS paper.

Its ranks and directions are those of `farss-init` with highest scores; it differs in recording which modules are
shallow, and in ignoring `selection`, since it is named after its directions.
"""
