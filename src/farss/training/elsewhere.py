"""The aids of a method in other trainers: transformers' own, TRL's, and what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from farss.errors import AdapterError
from farss.training.aids import (
    Pass,
    TrainingAid,
    add_gradients_,
    add_to_grad_,
    aids_of,
    load_aids,
    refuse_sharding,
    save_aids,
)


def callbacks_for(model: nn.Module, aids: Sequence[TrainingAid] | None = None) -> list[TrainerCallback]:
    """What a Trainer of transformers or TRL is given as `callbacks`, so that it trains as the method says.

    What is added to the loss is added to the gradients of every step, after they are clipped. States are kept in the
    Trainer's checkpoints, and taken up where it goes on from one. An aid that changes the optimiser (FoRA's) needs it
    before schedules are made of it: make the optimiser, call `prepare(model, optimizer)`, and hand it over as
    `optimizers=(optimizer, None)`.

    Args:
        model: a PEFT model made by `farss.apply` or `farss.load_adapter`.
        aids: None is those of its method.

    Raises:
        AdapterError: if the adapter needs aids and its plan is not known.
    """
    found = aids_of(model) if aids is None else aids
    return [callback for aid in found for callback in aid.callbacks()] + [_Aided(found)] if found else []


def prepare(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Let the aids of the method that `model` was made by change an optimiser, before its first step and schedule.

    Raises:
        AdapterError: if that cannot be done to it.
    """
    for aid in aids_of(model):
        aid.prepare(optimizer)
    setattr(optimizer, _PREPARED, True)


_PREPARED = "farss_prepared"


class _Aided(TrainerCallback):
    """Does for aids what our own trainer does, at the events that others have."""

    def __init__(self, aids: Sequence[TrainingAid]) -> None:
        self.aids = aids

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check that every aid can take part, and take up states.

        Raises:
            ConfigError: if the model is sharded.
            AdapterError: if the optimiser had to be prepared and was not.
            StorageError: if the checkpoint that is gone on from has no states of aids.
        """
        if getattr(args, "fsdp", None) or getattr(args, "deepspeed", None):
            refuse_sharding(self.aids)
        optimizer = kwargs["optimizer"]
        prepared = hasattr(getattr(optimizer, "optimizer", optimizer), _PREPARED)  # accelerate wraps it
        if not prepared and any(type(aid).prepare is not TrainingAid.prepare for aid in self.aids):
            raise AdapterError(
                "the method changes the optimiser, which was made without it",
                do="call `farss.training.elsewhere.prepare(model, optimizer)` and pass `optimizers=(optimizer, None)`",
            )
        if state.global_step:
            load_aids(self.aids, _checkpoint(args, state))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add to the gradients of the step."""
        at = Pass(kwargs["model"], state.global_step, part=0, parts=1, arithmetic=nullcontext)
        for aid in self.aids:
            if not aid.loss_by_model and (loss := aid.loss(at)) is not None:
                _add_(loss, kwargs["model"])
        add_gradients_(self.aids, state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep states in the checkpoint."""
        save_aids(self.aids, _checkpoint(args, state))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check that every aid took part."""
        for aid in self.aids:
            aid.check_end(state.global_step)


def _add_(loss: Tensor, model: nn.Module) -> None:
    """Add the gradient of a loss to `.grad`, unseen by what several processes hook to backward passes."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = zip(learned, torch.autograd.grad(loss, learned, allow_unused=True), strict=True)
    add_to_grad_((parameter, gradient) for parameter, gradient in found if gradient is not None)


def _checkpoint(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
