"""A start that is not the base model: what it costs is said before hours are spent on training it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from farss.adapters.gated import truncates
from farss.adapters.layers import lora_layers, trained_adapter
from farss.adapters.update import scaled_update
from farss.training.tasks import TrainingTask

ROWS = 4
NOTABLE = 1.1
"""A loss this many times the base's is worth a warning."""


class StartWarning(UserWarning):
    """A training begins far from the base model."""


def check_truncated_start(
    model: nn.Module, task: TrainingTask, examples: Sequence[Any], *, pad_id: int, in_bfloat16: bool, rows: int = ROWS
) -> None:
    """Warn if dropping components of the weights (KaSA) has raised the loss on the first examples notably.

    How much small singular values matter depends on the model: without the 32 smallest of every weight, the loss of
    SmolLM2-135M on GSM8K is 8.3 instead of 1.3. Any other adapter starts at the base and is not looked at.

    Args:
        model: before its first step.
        task: what is learned.
        examples: the rows to learn; the first `rows` are passed twice, without gradients.
        pad_id: id written at padded positions.
        in_bfloat16: whether to compute under bfloat16 autocast, as the training will.
        rows: how many.
    """
    adapter = trained_adapter(model)
    if not any(truncates(layer, adapter) for layer in lora_layers(model).values()):
        return
    first = list(examples[:rows])
    inputs = task.collator(pad_id)(first)
    with torch.autocast(next(model.parameters()).device.type, torch.bfloat16, enabled=in_bfloat16):
        loss, of_the_base = _loss(model, task, inputs), _loss(model, task, inputs, update=0.0)
    if loss > NOTABLE * of_the_base > 0:
        warnings.warn(
            f"before the first step, what is dropped of the weights multiplies the loss on the first {len(first)} rows "
            f"by {loss / of_the_base:.1f}: this model needs its small components, and training has to bring them back; "
            "choose a lower rank, or drop less (init.kasa.drop: published, nothing)",
            StartWarning,
            stacklevel=3,
        )


@torch.no_grad()
def _loss(model: nn.Module, task: TrainingTask, inputs: dict[str, Tensor], update: float = 1.0) -> float:
    """The summed loss without dropout, with `update` times the adapter; the model's mode is kept."""
    device, training = next(model.parameters()).device, model.training
    model.eval()
    try:
        with scaled_update(model, update):
            return float(task.loss_of(model)(model, {name: value.to(device) for name, value in inputs.items()}))
    finally:
        model.train(training)
