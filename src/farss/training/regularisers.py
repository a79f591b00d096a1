"""What a method adds to the loss of every optimiser step, beside the task's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from farss.adapters.gated import truncates
from farss.adapters.layers import lora_layers, trained_adapter
from farss.adapters.provenance import provenance_of
from farss.adapters.triplets import has_triplets
from farss.config import AdaloraConfig, KasaConfig
from farss.errors import AdapterError

Regulariser = Callable[[], Tensor]
"""The value now, a scalar that passes gradients to the adapter."""


def regulariser_of(model: nn.Module) -> Regulariser | None:
    """The regulariser of the method that `model` was made by; None where it has none.

    Args:
        model: a PEFT model made by `apply` or `load_adapter`, or any other model.

    Raises:
        AdapterError: if the adapter needs one and its plan, which has the weights of it, is not known.
    """
    adapter = trained_adapter(model)
    if has_triplets(model):
        pairs = [(layer.lora_B[adapter], layer.lora_A[adapter]) for layer in lora_layers(model).values()]
        weight = AdaloraConfig.from_mapping(_settings(model, "adalora"), "settings.adalora").orthogonality
        return lambda: adalora(pairs, weight)  # type: ignore[arg-type]  # parameters
    parts = [
        (layer.lora_B[adapter].factor, layer.lora_A[adapter].gate, layer.lora_A[adapter].factor)
        for layer in lora_layers(model).values()
        if truncates(layer, adapter)
    ]
    if not parts:
        return None
    settings = KasaConfig.from_mapping(_settings(model, "kasa"), "settings.kasa")
    return lambda: kasa(parts, settings)  # type: ignore[arg-type]  # parameters


def kasa(parts: Sequence[tuple[Tensor, Tensor, Tensor]], settings: KasaConfig) -> Tensor:
    """KaSA's `beta L2 + gamma L3`, in float32 or better.

    `L2 = ||d||^2` and `L3 = ||B'B - I||_F + ||AA' - I||_F`, averaged over the modules or summed. The published code
    forms `AA'` and `B'B` the other way round, [n, n] and [m, m], which adds a constant under each root.

    Args:
        parts: B [m, r], d [r, 1] and A [r, n] of every module.
        settings: the weights, and how modules are added up.
    """
    diagonals = torch.stack([d.square().sum() for _, d, _ in parts]).sum()
    skewness = torch.stack([orthogonality(up.mT) + orthogonality(down) for up, _, down in parts]).sum()
    count = len(parts) if settings.normalise == "modules" else 1
    return (settings.beta * diagonals + settings.gamma * skewness) / count


def adalora(parts: Sequence[tuple[Tensor, Tensor]], weight: float) -> Tensor:
    """AdaLoRA's `weight` times the mean of `||P'P - I||_F` and `||QQ' - I||_F` over all factors.

    Args:
        parts: P [m, r] and Q [r, n] of every module.
        weight: in the loss.
    """
    return weight * torch.stack([orthogonality(x) for up, down in parts for x in (up.mT, down)]).mean()


def orthogonality(rows: Tensor) -> Tensor:
    """`||X X' - I||_F` of the rows of X [r, d]: zero where they are orthonormal."""
    gram = rows @ rows.mT
    return torch.linalg.vector_norm(gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device))


def _settings(model: nn.Module, group: str) -> dict[str, object]:
    provenance = provenance_of(model)
    if provenance is None or group not in provenance.plan.settings:
        raise AdapterError(
            "nothing says how strongly the adapter is regularised",
            expected=f"a plan with the settings `{group}`",
            do="load a folder of `farss.adapters.files.save_adapter`, which keeps the plan beside the adapter",
        )
    return provenance.plan.settings[group]
