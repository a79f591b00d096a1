"""FARSS: few, least task-sensitive directions in shallow layers, many, most task-sensitive ones in deep layers."""

from __future__ import annotations

from farss.methods.base import SpectralMethod
from farss.methods.look import Look

FARSS = SpectralMethod(
    name="farss",
    summary="shallow: lowest Fisher scores, rank by inverse importance; deep: highest, rank R",
    look=Look("FARSS", "#c43e0a", "circle"),
    score="fisher",
    shallow="low",
    deep="high",
    shallow_rank="inverse_fisher",
    selectable=True,
)
"""The method of the FARSS paper (ACL Findings 2026), Eq. 8-17."""
