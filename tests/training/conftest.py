"""Rows of random tokens and settings small enough for exact comparisons."""

from __future__ import annotations

import dataclasses
import random
from contextlib import nullcontext

import pytest
import torch

from farss.config import TrainConfig
from farss.methods.aids import aids_of
from farss.model.calibration import Example
from farss.training.aids import Pass


@pytest.fixture
def rows() -> list[Example]:
    """Thirteen rows of different lengths, which no batch size used here divides."""
    draw = random.Random(3)

    def ids(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw.randrange(4, 90) for _ in range(draw.randrange(low, high)))

    return [Example(ids(1, 20), ids(1, 30)) for _ in range(13)]


@pytest.fixture
def settings():
    """Exact arithmetic, a large learning rate and no dropout; keyword arguments replace single settings."""
    base = TrainConfig(
        learning_rate=1e-2, epochs=2.0, batch_size=4, warmup_ratio=0.1, dropout=0.0, precision="float32", seed=5
    )

    def make(**changes) -> TrainConfig:
        return dataclasses.replace(base, **changes)

    return make


@pytest.fixture
def with_lora():
    """Wrap a model with a LoRA adapter drawn from a fixed seed."""

    def wrap(model, dropout: float = 0.0):
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(11)
        config = LoraConfig(r=4, lora_alpha=8, lora_dropout=dropout, target_modules=["q_proj", "down_proj"])
        return get_peft_model(model, config)

    return wrap


def added_loss(model) -> torch.Tensor:
    """What the aids of the method add to the loss of a step of one pass."""
    at = Pass(model, step=0, part=0, parts=1, arithmetic=nullcontext)
    return sum(aid.loss(at) for aid in aids_of(model))


def weights(model, *, trainable: bool) -> dict[str, torch.Tensor]:
    """Copies of the trained, or of the frozen, parameters by name."""
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad is trainable}


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Largest absolute difference of two sets of equally named tensors."""
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)
