"""FARSS-init: the initialisation of FARSS alone, without split and without adaptive ranks."""

from __future__ import annotations

from farss.methods.base import SpectralMethod
from farss.methods.look import Look

FARSS_INIT = SpectralMethod(
    name="farss-init",
    summary="highest Fisher scores at rank R in every layer",
    look=Look("FARSS-init", "#da7134", "plus"),
    score="fisher",
    shallow="high",
    deep="high",
    selectable=True,
)
"""The ablation of Figure 3 and Table 4 of the FARSS paper.

Figure 3 (rank 128) takes the highest scores; Table 4 (rank 32) the lowest, which is `selection: low`.
"""
