"""Supervised fine-tuning: responses to prompts, or labels of texts."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from farss.config import TrainConfig
from farss.errors import ConfigError, ModelError
from farss.model.arithmetic import require_float16, trains_in_bfloat16, warn_if_emulated
from farss.model.calibration import pad_token
from farss.processes import require_one_process
from farss.storage.owned import writing
from farss.training.aids import Beginning, TrainingAid, account_of, aids_of, load_aids, refuse_twins
from farss.training.arguments import arguments, total_steps
from farss.training.checkpoints import LOGS, claim, learned_weights, load_learned_, state_of, weights_digest
from farss.training.memory import PeakMemory
from farss.training.packing import check_packing
from farss.training.precision import inputs_as_they_come, keep_learned_weights_exact_
from farss.training.readiness import check_training
from farss.training.tasks import Collator, LanguageModelling, TrainingTask
from farss.training.validating import Validated

if TYPE_CHECKING:
    from farss.training.trainer import SupervisedTrainer


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
        account: what came of the training's aids, JSON-ready; for one that cuts ranks, for example, how many remain.
        validated: what was measured on validation rows meanwhile; None where nothing was.
    """

    seconds: float
    steps: int
    tokens: int
    tokens_per_second: float
    curve: tuple[tuple[int, float], ...]
    peak_bytes: int
    account: Mapping[str, Any] = field(default_factory=dict)
    validated: Validated | None = None


def train(
    model: nn.Module,
    tokenizer: Any,
    examples: Sequence[Any],
    config: TrainConfig,
    out: Path | str | None,
    *,
    validation: Sequence[Any] = (),
    task: TrainingTask | None = None,
    aids: Sequence[TrainingAid] = (),
    trains: Literal["adapter", "weights"] = "adapter",
    progress: Callable[[int, int, float], None] | None = None,
    resume: bool = True,
) -> TrainReport:
    """Train `model` in place on the labels of `examples` and report how it went.

    AdamW, or the optimiser of the settings, on the mean cross entropy of all labels of a step (response tokens, or
    classes of texts), however the step is split into micro-batches and processes. Parameters that require gradients
    are trained, others are not touched. They are kept in float32: with `trains="weights"` a half-precision model
    **becomes float32**; keep the base model elsewhere.

    Args:
        model: a causal language model or a classifier, or a PEFT model of one.
        tokenizer: tells the id for padding.
        examples: rows as token ids, of the kind that `task` takes.
        config: learning rate, batch size, schedule, precision, seed. `config.dropout` is a property of the adapter
            and has been applied with it.
        out: folder for checkpoints, written every `config.save_steps` steps if that is set; None keeps none.
        validation: rows of the same kind, not among `examples`, whose loss is measured every `config.eval_steps` steps.
        task: what is learned; None is language modelling, on rows of `calibration.Example`.
        aids: what is added to the training, beside what the method of the adapter adds by itself.
        trains: "adapter" if `model` carries one, "weights" for full fine-tuning.
        progress: called with (step, total steps, loss) after every step.
        resume: go on from the newest checkpoint in `out`; False removes what is there and begins again.

    What an aid of the method has to say of the start (KaSA's, where it dropped what the model needs), it warns of.

    Raises:
        DataError: if there are no examples, or one has no response token.
        ModelError: if no parameter requires gradients, or packed rows see each other in this model.
        ProcessesError: if several processes were started together.
        ConfigError: if the batch cannot be split evenly, the training is too short for the method, a package or
            validation rows are missing, or float16 is asked for without a GPU.
        AdapterError: if an aid of the method lacks its settings, or did not take part in every step (AdaLoRA's).
        NumericalError: if the loss or its gradient is not finite, naming the step.
        StorageError: if `out` cannot be written, or holds checkpoints of another training.
    """
    require_one_process("training")
    task = task or LanguageModelling()
    task.check(examples)
    _check(model)
    aids = [*aids_of(model), *aids]
    refuse_twins(aids)
    _check_settings(model, config, aids, len(examples), out, validation)
    if config.eval_steps is not None:
        task.check(validation)
    warn_if_emulated(model)
    keep_learned_weights_exact_(model, trains)
    identity = {
        "settings": config.decisive(),
        "trains": trains,
        "data": task.fingerprint(examples, config.seed),
        "start": weights_digest(model, learned_weights(model)),
        **({"validation": task.fingerprint(validation, config.seed)} if config.eval_steps else {}),
        **({"aids": known} if (known := {aid.name: aid.identity() for aid in aids if aid.identity()}) else {}),
    }
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()) if out is None else out)
        checkpoint = claim(folder, identity, resume=resume)
        stack.enter_context(_as_it_was(model))
        if config.packing:
            check_packing(model, examples, pad_token(tokenizer))
        keeps = out is not None
        trainer = _trainer(
            model, tokenizer, examples, validation, task, config, folder, aids=aids, keeps=keeps, progress=progress
        )
        stack.callback(trainer.let_go)
        in_half = trainer.in_bfloat16 or trainer.args.fp16
        stack.enter_context(inputs_as_they_come(model, in_half))
        memory = PeakMemory(trainer.args.device)
        beginning = Beginning(examples, functools.partial(_loss_before, trainer, task.collator(pad_token(tokenizer))))
        for aid in aids if checkpoint is None else ():
            aid.check_start(beginning)
        total = total_steps(len(examples), config)
        with writing(folder, LOGS) if config.trackers else nullcontext():
            _run(trainer, checkpoint, total)
        return _report(trainer, memory, _validated(trainer, total))


def _check_settings(
    model: nn.Module,
    config: TrainConfig,
    aids: Sequence[TrainingAid],
    rows: int,
    out: Path | str | None,
    validation: Sequence[Any],
) -> None:
    check_training(config, [type(aid) for aid in aids], rows)
    if config.precision == "float16":
        require_float16(next(model.parameters()).device)
    if config.trackers and out is None:
        raise ConfigError("a training is reported from its folder", where="report_to", do="give it one to write to")
    if config.eval_steps is not None and not validation:
        raise ConfigError(
            "there are no validation rows to measure the loss on",
            where="train.eval_steps",
            do="set select: validation, or pass `validation`",
        )


def _check(model: nn.Module) -> None:
    if not learned_weights(model):
        raise ModelError(
            "no parameter of the model requires gradients",
            got=type(model).__name__,
            do="apply an adapter first, or call `model.requires_grad_(True)` to train all weights",
        )


def _trainer(
    model: nn.Module,
    tokenizer: Any,
    examples: Sequence[Any],
    validation: Sequence[Any],
    task: TrainingTask,
    config: TrainConfig,
    folder: Path,
    *,
    aids: Sequence[TrainingAid],
    keeps: bool,
    progress: Callable[[int, int, float], None] | None,
) -> SupervisedTrainer:
    from farss.training.trainer import SupervisedTrainer

    weight = next(model.parameters())
    return SupervisedTrainer(
        model,
        arguments(config, folder, weight.device, total_steps(len(examples), config), keeps=keeps),
        examples,
        task,
        pad_id=pad_token(tokenizer),
        config=config,
        in_bfloat16=trains_in_bfloat16(config.precision, weight.dtype, weight.device),
        aids=aids,
        validation=validation,
        progress=progress,
    )


def _run(trainer: SupervisedTrainer, checkpoint: Path | None, total_steps: int) -> None:
    state = None if checkpoint is None else state_of(checkpoint)
    if state is not None:
        trainer.go_on_from(state["log_history"])
    if checkpoint is None or state is None or not _is_over(state, total_steps):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        for aid in trainer.aids:
            aid.check_end(trainer.state.global_step)
        return
    load_learned_(trainer.head_owner, checkpoint)
    load_aids(trainer.aids, checkpoint)
    trainer.state.log_history, trainer.state.global_step = state["log_history"], state["global_step"]
    trainer.state.best_global_step = state.get("best_global_step")


def _is_over(state: dict[str, Any], total_steps: int) -> bool:
    """Whether a checkpoint is of the last step, or of that at which training stopped early."""
    control = state.get("stateful_callbacks", {}).get("TrainerControl", {}).get("args", {})
    return state["global_step"] >= total_steps or bool(control.get("should_training_stop"))


@torch.no_grad()
def _loss_before(trainer: SupervisedTrainer, collator: Collator, rows: Sequence[Any]) -> float:
    """The summed loss of rows without dropout; the model's mode is kept."""
    model, training = trainer.head_owner, trainer.head_owner.training
    device, inputs = next(model.parameters()).device, collator(rows)
    model.eval()
    try:
        with trainer.arithmetic():
            return float(trainer.summed_loss(model, {name: value.to(device) for name, value in inputs.items()}))
    finally:
        model.train(training)


def _validated(trainer: SupervisedTrainer, total: int) -> Validated | None:
    """What was measured; the model is then that of the lowest loss, where that is asked for."""
    config, step = trainer.config, trainer.state.global_step
    losses = tuple((int(e["step"]), e["eval_loss"]) for e in trainer.state.log_history if "eval_loss" in e)
    if not losses:
        return None
    kept = trainer.take_best() if config.load_best else step
    ended = "early_stopping" if step < total else "epochs" if config.max_steps is None else "max_steps"
    return Validated(losses, min(losses, key=lambda point: point[1])[0], kept, ended)


def _report(trainer: SupervisedTrainer, memory: PeakMemory, validated: Validated | None) -> TrainReport:
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    seconds, tokens = (logged[-1]["seconds"], int(logged[-1]["tokens"])) if logged else (0.0, 0)
    return TrainReport(
        seconds=seconds,
        steps=trainer.state.global_step,
        tokens=tokens,
        tokens_per_second=tokens / seconds if seconds else 0.0,
        curve=tuple((int(entry["step"]), entry["loss"]) for entry in logged),
        peak_bytes=memory.bytes(),
        account=account_of(trainer.aids),
        validated=validated,
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


def _checkpoints_activations(model: nn.Module) -> bool:
    return any(getattr(module, "gradient_checkpointing", False) is True for module in model.modules())
