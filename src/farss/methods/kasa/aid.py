"""KaSA under training: two regularisers, and a warning where what it drops of the weights is needed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from farss.adapters.gated import truncates
from farss.adapters.layers import lora_layers, trained_adapter
from farss.adapters.provenance import settings_of
from farss.adapters.update import scaled_update
from farss.maths.stiefel import row_skewness
from farss.methods.kasa.settings import KasaConfig
from farss.training.aids import Beginning, Pass, TrainingAid

ROWS = 4
"""Rows whose loss is looked at before the first step."""
NOTABLE = 1.1
"""A loss this many times the base's is worth a warning."""


class StartWarning(UserWarning):
    """A training begins far from the base model."""


class KasaAid(TrainingAid):
    """`beta L2 + gamma L3` in the loss of every step."""

    name = "kasa"

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        settings = settings_of(model, "kasa", "how strongly the adapter is regularised")
        self.settings = KasaConfig.from_mapping(settings, "settings.kasa")
        adapter = trained_adapter(model)
        self.parts = [
            (layer.lora_B[adapter].factor, layer.lora_A[adapter].gate, layer.lora_A[adapter].factor)
            for layer in lora_layers(model).values()
            if truncates(layer, adapter)
        ]

    @classmethod
    def serves(cls, model: nn.Module) -> bool:
        """Whether the adapter of `model` is KaSA's."""
        adapter = trained_adapter(model)
        return any(truncates(layer, adapter) for layer in lora_layers(model).values())

    def loss(self, at: Pass) -> Tensor:
        """This pass's share of the regularisers."""
        return regularisers(self.parts, self.settings) / at.parts  # type: ignore[arg-type]  # parameters

    def check_start(self, beginning: Beginning) -> None:
        """Warn if dropping components of the weights has raised the loss on the first rows notably.

        How much small singular values matter depends on the model: without the 32 smallest of every weight, the loss
        of SmolLM2-135M on GSM8K is 8.3 instead of 1.3.
        """
        first = beginning.examples[:ROWS]
        loss = beginning.loss(first)
        with scaled_update(self.model, 0.0):
            of_the_base = beginning.loss(first)
        if loss > NOTABLE * of_the_base > 0:
            warnings.warn(
                f"before the first step, what is dropped of the weights multiplies the loss on the first {len(first)} "
                f"rows by {loss / of_the_base:.1f}: this model needs its small components, and training has to bring "
                "them back; choose a lower rank, or drop less (init.kasa.drop: published, nothing)",
                StartWarning,
                stacklevel=3,
            )


def regularisers(parts: Sequence[tuple[Tensor, Tensor, Tensor]], settings: KasaConfig) -> Tensor:
    """KaSA's `beta L2 + gamma L3`, in float32 or better.

    `L2 = ||d||^2` and `L3 = ||B'B - I||_F + ||AA' - I||_F`, averaged over the modules or summed. The published code
    forms `AA'` and `B'B` the other way round, [n, n] and [m, m], which adds a constant under each root.

    Args:
        parts: B [m, r], d [r, 1] and A [r, n] of every module.
        settings: the weights, and how modules are added up.
    """
    diagonals = torch.stack([d.square().sum() for _, d, _ in parts]).sum()
    skewness = torch.stack([row_skewness(up.mT) + row_skewness(down) for up, _, down in parts]).sum()
    count = len(parts) if settings.normalise == "modules" else 1
    return (settings.beta * diagonals + settings.gamma * skewness) / count
