"""MiLoRA: adapters start from the smallest singular components."""

from __future__ import annotations

from farss.methods.base import SpectralMethod
from farss.methods.look import Look

MILORA = SpectralMethod(
    name="milora",
    summary="smallest singular values at rank R in every layer; needs no data",
    look=Look("MiLoRA", "#0a7f5c", "down"),
    score="sigma",
    shallow="low",
    deep="low",
)
"""MiLoRA: Harnessing Minor Singular Components for Parameter-Efficient LLM Finetuning (NAACL 2025).

Components whose singular value is exactly zero are left out: they would give A = B = 0, which never trains.
"""
