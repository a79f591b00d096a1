"""What a method or a recipe adds to a training, said by one object each; the trainer knows none of them by name.

An aid is asked, in this order: whether the settings suit it; what there is to say before the first step; what it does
to the optimiser; in every pass, what it adds to the loss; in every step, what it adds to gradients; what must be kept
in a checkpoint; and at the end whether all went right, and what came of it. Trainers of other programs take the same
aids through `farss.training.elsewhere`.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from farss.config import TrainConfig
from farss.errors import ConfigError
from farss.storage import read_tensors, write_tensors

if TYPE_CHECKING:
    from transformers import TrainerCallback


REGISTRY = "farss.methods.aids"
"""The module that knows the aids of all methods; methods stand above training, so it is asked for those of a model."""


@dataclass(frozen=True)
class Beginning:
    """A training before its first step.

    Attributes:
        examples: rows to learn.
        loss: the summed loss of rows as the training will compute it, without dropout and gradients.
    """

    examples: Sequence[Any]
    loss: Callable[[Sequence[Any]], float]


@dataclass(frozen=True)
class Pass:
    """One of the passes that a step is split into.

    Attributes:
        model: to call, perhaps wrapped for several processes.
        step: steps that are done.
        part: which of the step's passes it is, from 0.
        parts: how many there are.
        arithmetic: the block computes as the task's passes do (autocast).
    """

    model: nn.Module
    step: int
    part: int
    parts: int
    arithmetic: Callable[[], AbstractContextManager[Any]]


class TrainingAid:
    """One thing that is added to a training; every part does nothing unless a subclass says otherwise.

    Args:
        model: that is trained, not wrapped.

    Raises:
        AdapterError: if the model lacks what the aid needs.
    """

    name: ClassVar[str]
    """In messages and names of files: small letters and underscores."""

    shards: ClassVar[bool] = False
    """Whether it works where parameters are split over processes (FSDP, DeepSpeed)."""

    loss_by_model: ClassVar[bool] = False
    """Whether the model itself adds `loss` wherever it computes the loss of labels, as trainers elsewhere let it."""

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model

    @classmethod
    def serves(cls, model: nn.Module) -> bool:
        """Whether the adapter of `model` needs it, whoever made it; asked of the aids of farss's own methods."""
        return False

    @classmethod
    def check_settings(cls, config: TrainConfig) -> None:
        """Refuse what it cannot train with, before a model is loaded.

        Raises:
            ConfigError: naming the setting.
        """

    def identity(self) -> dict[str, Any]:
        """What tells a training with it from others, JSON-ready; nothing where the start of the model tells it."""
        return {}

    def check_start(self, beginning: Beginning) -> None:
        """Warn, before the first step of a new training, of what it will cost."""

    def prepare(self, optimizer: Optimizer) -> None:
        """Change an optimiser before schedules are made of it and before its first step.

        Raises:
            AdapterError: if that cannot be done to it.
        """

    def callbacks(self) -> Sequence[TrainerCallback]:
        """What transformers' Trainer is to call."""
        return ()

    def loss(self, at: Pass) -> Tensor | None:
        """This pass's part of what it adds to the loss of a step; None where it adds nothing.

        The gradient is passed on, and the value left out of the loss that is reported, which is the task's.
        """
        return None

    def gradients(self, step: int) -> Iterable[tuple[nn.Parameter, Tensor]]:
        """What is added to the gradients of a step, once, however it is split, and before they are clipped.

        Args:
            step: steps that are done.

        Returns:
            Parameters and gradients of their shapes, of the loss as it is reported: not multiplied by numbers of
            passes or processes.
        """
        return ()

    def state(self) -> dict[str, Tensor]:
        """What a training needs to go on exactly, beside the weights and the optimiser's own state."""
        return {}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take up what `state` gave."""

    def check_end(self, steps: int) -> None:
        """Check, when a training is over, that it took part.

        Args:
            steps: optimiser steps, those before an interruption included.

        Raises:
            AdapterError: if it did not.
        """

    def account(self) -> dict[str, Any]:
        """What came of it, JSON-ready, for the account of the training."""
        return {}


def aids_of(model: nn.Module) -> list[TrainingAid]:
    """The aids of the method that `model` was made by; none for most.

    Args:
        model: a PEFT model made by `apply` or `load_adapter`, or any other model.

    Raises:
        AdapterError: if the adapter needs one and its plan, which has its settings, is not known.
        ConfigError: if the method is not installed.
    """
    found: list[TrainingAid] = importlib.import_module(REGISTRY).aids_of(model)
    return found


def add_gradients_(aids: Iterable[TrainingAid], step: int, scale: float = 1.0) -> None:
    """Add to `.grad` what aids add to a step.

    Args:
        aids: of the training.
        step: steps that are done.
        scale: by which gradients are multiplied at present (float16).
    """
    for aid in aids:
        add_to_grad_(aid.gradients(step), scale)


@torch.no_grad()
def add_to_grad_(gradients: Iterable[tuple[nn.Parameter, Tensor]], scale: float = 1.0) -> None:
    """Add `scale` times each gradient to the `.grad` of its parameter."""
    for parameter, gradient in gradients:
        part = gradient.to(parameter) * scale
        parameter.grad = part if parameter.grad is None else parameter.grad.add_(part)


def save_aids(aids: Iterable[TrainingAid], folder: Path) -> None:
    """Write the state of aids beside a checkpoint, a file for each that has one.

    Raises:
        StorageError: if a file cannot be written.
    """
    for aid in filter(_has_state, aids):
        write_tensors(_file(aid, folder), {name: tensor.detach() for name, tensor in aid.state().items()})


def load_aids(aids: Iterable[TrainingAid], folder: Path) -> None:
    """Take up what `save_aids` wrote.

    Raises:
        StorageError: if a file is missing or damaged.
    """
    for aid in filter(_has_state, aids):
        aid.load_state(read_tensors(_file(aid, folder))[0])


def refuse_twins(aids: Iterable[TrainingAid]) -> None:
    """Refuse aids of one name, whose states would be one file.

    Raises:
        ConfigError: naming them.
    """
    names = Counter(aid.name for aid in aids)
    if twins := [name for name, count in names.items() if count > 1]:
        raise ConfigError("two training aids have one name", got=", ".join(twins), do="give one of the classes another")


def refuse_sharding(aids: Iterable[TrainingAid]) -> None:
    """Refuse aids that need whole parameters.

    Raises:
        ConfigError: naming them.
    """
    if whole := [aid.name for aid in aids if not aid.shards]:
        raise ConfigError(
            "what the training is aided by cannot work on a sharded model",
            got=", ".join(whole),
            do="train with DDP, or in one process",
        )


def account_of(aids: Iterable[TrainingAid]) -> dict[str, Any]:
    """What came of all aids."""
    return {key: value for aid in aids for key, value in aid.account().items()}


def _has_state(aid: TrainingAid) -> bool:
    return type(aid).state is not TrainingAid.state


def _file(aid: TrainingAid, folder: Path) -> Path:
    return folder / f"{aid.name}.safetensors"
