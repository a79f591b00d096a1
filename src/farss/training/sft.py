"""Supervised fine-tuning: responses to prompts, or labels of texts."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from farss.config import TrainConfig
from farss.errors import ModelError
from farss.model.arithmetic import trains_in_bfloat16, warn_if_emulated
from farss.model.calibration import pad_token
from farss.processes import processes, require_one_process
from farss.training.batching import split_batch
from farss.training.checkpoints import (
    claim,
    learned_weights,
    load_learned_,
    state_of,
    weights_digest,
)
from farss.training.memory import PeakMemory
from farss.training.precision import inputs_as_they_come, keep_learned_weights_exact_
from farss.training.tasks import LanguageModelling, TrainingTask
from farss.training.truncation import check_truncated_start

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from farss.training.trainer import SupervisedTrainer

SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


@dataclass(frozen=True)
class TrainReport:
    """What a training took and how it went.

    Attributes:
        seconds: time in training, parts before an interruption included.
        steps: optimiser steps.
        tokens: real tokens (no padding) that went through the model of this process.
        tokens_per_second: the ratio of the two.
        curve: (step, mean loss per label of that step: per response token, or per text) for every step.
        peak_bytes: peak memory of the GPU, or resident memory of the process, since training began.
        rank_budget: the sum of ranks that was to remain, for methods that cut ranks in training (AdaLoRA); else None.
        rank_realised: the sum of ranks that did.
    """

    seconds: float
    steps: int
    tokens: int
    tokens_per_second: float
    curve: tuple[tuple[int, float], ...]
    peak_bytes: int
    rank_budget: int | None = None
    rank_realised: int | None = None


def train(
    model: nn.Module,
    tokenizer: Any,
    examples: Sequence[Any],
    config: TrainConfig,
    out: Path | str | None,
    *,
    task: TrainingTask | None = None,
    trains: Literal["adapter", "weights"] = "adapter",
    progress: Callable[[int, int, float], None] | None = None,
    resume: bool = True,
) -> TrainReport:
    """Train `model` in place on the labels of `examples` and report how it went.

    AdamW on the mean cross entropy of all labels of a step (response tokens, or classes of texts), however the step is
    split into micro-batches and processes. Parameters that require gradients are trained, others are not touched.
    They are kept in float32: with `trains="weights"` a half-precision model **becomes float32**; keep the base model
    elsewhere.

    Args:
        model: a causal language model or a classifier, or a PEFT model of one.
        tokenizer: tells the id for padding.
        examples: rows as token ids, of the kind that `task` takes.
        config: learning rate, batch size, schedule, precision, seed. `config.dropout` is a property of the adapter
            and has been applied with it.
        out: folder for checkpoints, written every `config.save_steps` steps if that is set; None keeps none.
        task: what is learned; None is language modelling, on rows of `calibration.Example`.
        trains: "adapter" if `model` carries one, "weights" for full fine-tuning.
        progress: called with (step, total steps, loss) after every step.
        resume: go on from the newest checkpoint in `out`; False removes what is there and begins again.

    If the method drops components of the weights that the model needs (KaSA), a `truncation.StartWarning` says so.

    Raises:
        DataError: if there are no examples, or one has no response token.
        ModelError: if no parameter requires gradients.
        ProcessesError: if several processes were started together.
        ConfigError: if the batch cannot be split evenly, or the training is too short for the method.
        AdapterError: if the ranks of AdaLoRA were not looked at in every step.
        NumericalError: if the loss or its gradient is not finite, naming the step.
        StorageError: if `out` cannot be written, or holds checkpoints of another training.
    """
    require_one_process("training")
    task = task or LanguageModelling()
    task.check(examples)
    _check(model)
    warn_if_emulated(model)
    keep_learned_weights_exact_(model, trains)
    identity = {
        "settings": config.decisive(),
        "trains": trains,
        "data": task.fingerprint(examples, config.seed),
        "start": weights_digest(model, learned_weights(model)),
    }
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()) if out is None else out)
        checkpoint = None if out is None else claim(folder, identity, resume=resume)
        stack.enter_context(_as_it_was(model))
        trainer = _trainer(model, tokenizer, examples, task, config, folder, keeps=out is not None, progress=progress)
        stack.enter_context(inputs_as_they_come(model, trainer.in_bfloat16))
        memory = PeakMemory(trainer.args.device)
        if checkpoint is None:
            check_truncated_start(model, task, examples, pad_id=pad_token(tokenizer), in_bfloat16=trainer.in_bfloat16)
        _run(trainer, checkpoint, _total_steps(len(examples), config))
        return _report(trainer, memory)


def warmup_steps(total: int, ratio: float) -> int:
    """Steps over which the learning rate rises: `ratio` of `total`, rounded up."""
    return math.ceil(ratio * total)


def _check(model: nn.Module) -> None:
    if not learned_weights(model):
        raise ModelError(
            "no parameter of the model requires gradients",
            got=type(model).__name__,
            do="apply an adapter first, or call `model.requires_grad_(True)` to train all weights",
        )


def _total_steps(rows: int, config: TrainConfig) -> int:
    return math.ceil(config.epochs * math.ceil(rows / config.batch_size))


def _trainer(
    model: nn.Module,
    tokenizer: Any,
    examples: Sequence[Any],
    task: TrainingTask,
    config: TrainConfig,
    folder: Path,
    *,
    keeps: bool,
    progress: Callable[[int, int, float], None] | None,
) -> SupervisedTrainer:
    from farss.training.trainer import SupervisedTrainer

    args = _arguments(model, config, folder, _total_steps(len(examples), config), keeps)
    return SupervisedTrainer(
        model,
        args,
        examples,
        task,
        pad_id=pad_token(tokenizer),
        batch_size=config.batch_size,
        in_bfloat16=_in_bfloat16(config, model),
        progress=progress,
    )


def _in_bfloat16(config: TrainConfig, model: nn.Module) -> bool:
    weight = next(model.parameters())
    return trains_in_bfloat16(config.precision, weight.dtype, weight.device)


def _arguments(model: nn.Module, config: TrainConfig, folder: Path, steps: int, keeps: bool) -> TrainingArguments:
    from transformers import TrainingArguments

    rows, passes = split_batch(config.batch_size, config.micro_batch_size, processes())
    on_cpu = next(model.parameters()).device.type == "cpu"
    saves = keeps and config.save_steps is not None
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=passes,
        num_train_epochs=config.epochs,
        learning_rate=config.learning_rate,
        lr_scheduler_type=SCHEDULES[config.schedule],
        warmup_steps=warmup_steps(steps, config.warmup_ratio),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        optim="adamw_torch",
        seed=config.seed,
        use_cpu=on_cpu,
        **(_checkpointing(TrainingArguments) if config.gradient_checkpointing else {}),
        save_strategy="steps" if saves else "no",
        save_steps=config.save_steps if saves and config.save_steps else steps,
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


def _run(trainer: SupervisedTrainer, checkpoint: Path | None, total_steps: int) -> None:
    if checkpoint is None:
        trainer.train()
        _check_budget(trainer)
        return
    state = state_of(checkpoint)
    trainer.go_on_from(state["log_history"])
    if state["global_step"] < total_steps:
        trainer.train(resume_from_checkpoint=str(checkpoint))
        _check_budget(trainer)
        return
    load_learned_(trainer.head_owner, checkpoint)
    trainer.state.log_history, trainer.state.global_step = state["log_history"], state["global_step"]


def _check_budget(trainer: SupervisedTrainer) -> None:
    if trainer.budget is not None:
        trainer.budget.check(trainer.state.global_step)


def _report(trainer: SupervisedTrainer, memory: PeakMemory) -> TrainReport:
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    seconds, tokens = (logged[-1]["seconds"], int(logged[-1]["tokens"])) if logged else (0.0, 0)
    return TrainReport(
        seconds=seconds,
        steps=trainer.state.global_step,
        tokens=tokens,
        tokens_per_second=tokens / seconds if seconds else 0.0,
        curve=tuple((int(entry["step"]), entry["loss"]) for entry in logged),
        peak_bytes=memory.bytes(),
        rank_budget=None if trainer.budget is None else trainer.budget.asked,
        rank_realised=None if trainer.budget is None else trainer.budget.realised,
    )


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Undo afterwards what the Trainer sets on a model besides its weights: mode, cache, checkpointing, gradients."""
    configuration = getattr(model, "config", None)
    training, cache = model.training, getattr(configuration, "use_cache", None)
    checkpointing = _checkpoints_activations(model)
    try:
        yield
    finally:
        model.zero_grad(set_to_none=True)
        model.train(training)
        if cache is not None:
            configuration.use_cache = cache  # type: ignore[union-attr]  # it had the attribute
        if _checkpoints_activations(model) and not checkpointing:
            for name in ("activation_checkpointing_disable", "gradient_checkpointing_disable"):
                if hasattr(model, name):
                    getattr(model, name)()
                    break


def _checkpointing(arguments: type[TrainingArguments]) -> dict[str, Any]:
    """The arguments that switch activation checkpointing on, whose names changed in transformers 5."""
    names = {field.name for field in dataclasses.fields(arguments)}
    prefix = "activation" if "activation_checkpointing" in names else "gradient"
    return {f"{prefix}_checkpointing": True, f"{prefix}_checkpointing_kwargs": {"use_reentrant": False}}


def _checkpoints_activations(model: nn.Module) -> bool:
    return any(getattr(module, "gradient_checkpointing", False) is True for module in model.modules())
