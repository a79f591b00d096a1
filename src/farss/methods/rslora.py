"""rsLoRA: LoRA with the scale alpha / sqrt(r)."""

from __future__ import annotations

from farss.methods.look import Look
from farss.methods.lora import Lora

RSLORA = Lora(
    name="rslora",
    summary="LoRA with the scale alpha / sqrt(r), whatever the recipe's scale; needs no data",
    look=Look("rsLoRA", "#2892cf", "left"),
    scale="rslora",
)
"""A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA (2023): the update keeps its size as r grows."""
