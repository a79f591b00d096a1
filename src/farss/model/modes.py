"""How a model is set while it is only read, and put back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def reading_only(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without trainable parameters and without a cache of keys; all flags of before afterwards."""
    training = {module: module.training for module in model.modules()}
    caching = {id(c): (c, c.use_cache) for c in _configurations(model) if hasattr(c, "use_cache")}
    trainable = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        model.eval()
        model.requires_grad_(False)
        for config, _ in caching.values():  # a model of several towers need not hand the argument on
            config.use_cache = False
        yield
    finally:
        for config, before in caching.values():
            config.use_cache = before
        for module, mode in training.items():
            module.training = mode
        for parameter, mode in trainable.items():
            parameter.requires_grad_(mode)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every part of `model` in evaluation mode; afterwards each is as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _configurations(model: nn.Module) -> list[Any]:
    """The configuration of a transformers model and that of its language model."""
    config: Any = getattr(model, "config", None)
    return [config, config.get_text_config(decoder=True)] if hasattr(config, "get_text_config") else []


def keep_checkpointing(model: nn.Module) -> None:
    """Put checkpointed blocks, not their children, in training mode, the only one in which transformers checkpoints."""
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False) and not _drops_out(module):
            module.training = True


def _drops_out(module: nn.Module) -> bool:
    rates = (value for name, value in vars(module).items() if "drop" in name and isinstance(value, float))
    return any(rate > 0 for rate in rates)


@contextmanager
def full_precision_products() -> Iterator[None]:
    """float32 matrix products in float32 (no TF32, no bfloat16), whatever the process prefers."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
