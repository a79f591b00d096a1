"""`mid`: adapters start from the directions in the middle of the Fisher scores, in every layer."""

from __future__ import annotations

from farss.methods import SpectralMethod

MID = SpectralMethod(
    name="mid",
    summary="the middle of the Fisher scores at rank R, in every layer",
    score="fisher",
    shallow="mid",
    deep="mid",
)
"""Neither what the task asks for most nor what it asks for least: a control for both ends."""
