"""What transformers' Trainer is told: its arguments, and the length of a training in steps."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from farss.config import TrainConfig
from farss.processes import processes
from farss.train_settings import SCHEDULES
from farss.training.batching import split_batch

if TYPE_CHECKING:
    from transformers import TrainingArguments

NEVER = 1 << 40
"""A step that no training comes to: checkpoints are then written only where something else asks for one."""


def total_steps(rows: int, config: TrainConfig) -> int:
    """Optimiser steps of a training on so many rows that nothing stops early."""
    return config.max_steps or math.ceil(config.epochs * math.ceil(rows / config.batch_size))


def warmup_steps(total: int, config: TrainConfig) -> int:
    """Steps over which the learning rate rises: those asked for, or a share of all steps, rounded up."""
    return math.ceil(config.warmup_ratio * total) if config.warmup_steps is None else config.warmup_steps


def arguments(config: TrainConfig, folder: Path, device: torch.device, steps: int, *, keeps: bool) -> TrainingArguments:
    """The Trainer's arguments.

    Args:
        config: of the training.
        folder: of its checkpoints.
        device: where the model is.
        steps: of the whole training.
        keeps: whether checkpoints are kept when it is over.

    Raises:
        ConfigError: if a step's rows cannot be split evenly into passes.
    """
    from transformers import TrainingArguments

    rows, passes = split_batch(config.batch_size, config.micro_batch_size, processes())
    on_cpu = device.type == "cpu"
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=rows,
        per_device_eval_batch_size=rows,
        gradient_accumulation_steps=passes,
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        max_grad_norm=config.max_grad_norm,
        fp16=config.precision == "float16",
        seed=config.seed,
        use_cpu=on_cpu,
        **_optimisation(config, steps),
        **_looking(config),
        **(_checkpointing(TrainingArguments) if config.gradient_checkpointing else {}),
        save_strategy="steps" if (keeps and config.save_steps) or config.load_best else "no",
        save_steps=config.save_steps if keeps and config.save_steps else NEVER,
        restore_callback_states_from_checkpoint=True,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=not on_cpu,
    )
    if args.n_gpu > 1:
        args._n_gpu = 1  # one process, one GPU
    return args


def _optimisation(config: TrainConfig, steps: int) -> dict[str, Any]:
    return {
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": SCHEDULES[config.schedule],
        "lr_scheduler_kwargs": dict(config.lr_scheduler_kwargs),
        "warmup_steps": warmup_steps(steps, config),
        "weight_decay": config.weight_decay,
        "optim": config.optim,
        "adam_beta1": config.adam_beta1,
        "adam_beta2": config.adam_beta2,
        "adam_epsilon": config.adam_epsilon,
        "neftune_noise_alpha": config.neftune_noise_alpha,
    }


def _looking(config: TrainConfig) -> dict[str, Any]:
    """When the loss on validation rows is measured, and that a lower one is better."""
    if config.eval_steps is None:
        return {"eval_strategy": "no"}
    return {
        "eval_strategy": "steps",
        "eval_steps": config.eval_steps,
        "metric_for_best_model": "loss",
        "greater_is_better": False,
    }


def _checkpointing(known: type[TrainingArguments]) -> dict[str, Any]:
    """The arguments that switch activation checkpointing on, whose names changed in transformers 5."""
    names = {field.name for field in dataclasses.fields(known)}
    prefix = "activation" if "activation_checkpointing" in names else "gradient"
    return {f"{prefix}_checkpointing": True, f"{prefix}_checkpointing_kwargs": {"use_reentrant": False}}
