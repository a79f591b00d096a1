"""The classification head: trained a little before anything is measured through it, and in full beside an adapter."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence

import torch
from torch import nn

from farss.adapters.layers import base_of
from farss.config import HeadConfig
from farss.errors import NumericalError
from farss.model.classification import LabelledExample, label_loss, labelled_batches
from farss.model.heads import head_parameters
from farss.model.modes import full_precision_products, reading_only


def warm_up_head_(
    model: nn.Module, examples: Sequence[LabelledExample], config: HeadConfig, *, pad_id: int, seed: int = 0
) -> list[float]:
    """Train only the head of `model`, in place, for `config.warmup_steps` steps of AdamW; the loss of each.

    Gradients through a head of random numbers are defined, and are noise: for two classes every one of them leaves
    the head along the same random direction, so second moments of output gradients would tell what that direction
    reaches and nothing of the task. A few steps on the calibration examples turn it towards what separates the
    classes, at the price of that many forward passes. The encoder is not touched and drops nothing out.

    Args:
        model: a classifier without adapters.
        examples: of the calibration.
        config: steps (0 leaves the head as it is), learning rate, rows of a step.
        pad_id: the tokenizer's padding token.
        seed: of the order of the examples.

    Returns:
        The mean loss per text of every step, before that step.

    Raises:
        ModelError: if the model has no head beside an encoder.
        NumericalError: if the loss is not finite.
    """
    head = list(head_parameters(model).values())
    device, curve, draw = head[0].device, [], random.Random(seed)
    with reading_only(model), full_precision_products():
        for parameter in head:
            parameter.requires_grad_(True)
        optimizer = torch.optim.AdamW(head, lr=config.warmup_rate, weight_decay=0.0)
        for step in range(config.warmup_steps):
            rows = draw.sample(examples, min(config.warmup_rows, len(examples)))
            (batch,) = labelled_batches(rows, batch_tokens=sys.maxsize, pad_id=pad_id)
            here = batch.to(device)
            loss = label_loss(model(**here.inputs, return_dict=True).logits, here.labels) / len(rows)
            if not bool(torch.isfinite(loss)):
                raise NumericalError("the loss is not finite", where=f"head warm-up, step {step + 1}", got=loss.item())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            curve.append(float(loss.detach()))
        for parameter in head:
            parameter.grad = None
    return curve


def release_head_(model: nn.Module) -> int:
    """Let the head of `model`, a classifier or a PEFT model of one, be trained; how many parameters it has.

    Raises:
        ModelError: if the model has no head beside an encoder.
    """
    head = head_parameters(base_of(model))
    for parameter in head.values():
        parameter.requires_grad_(True)
    return sum(parameter.numel() for parameter in head.values())
