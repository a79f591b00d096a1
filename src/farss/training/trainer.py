"""transformers' Trainer with our loss, our batches and our checkpoints; everything else is its own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput, SaveStrategy

from farss.config import TrainConfig
from farss.errors import NumericalError, StorageError
from farss.model.calibration import UNSUPERVISED
from farss.storage.disk import full_disk
from farss.training.aids import Pass, TrainingAid, add_gradients_, load_aids, refuse_sharding, save_aids
from farss.training.batching import BatchOrder
from farss.training.checkpoints import checkpoint_of, checkpoint_written, drop_older, load_learned_, save_learned
from farss.training.tasks import TrainingTask
from farss.training.trackers import trackers

Progress = Callable[[int, int, float], None]


class Rows(Dataset[Any]):
    """Examples as a data set."""

    def __init__(self, examples: Sequence[Any]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Any:
        return self.examples[index]


class SupervisedTrainer(Trainer):
    """Mean loss over the labels of a whole step, whatever the micro-batches and processes.

    Args:
        model: a causal language model, a classifier, or a PEFT model of one.
        args: schedule, batch sizes and folders.
        examples: rows to learn.
        task: how they are put in batches and what their loss is.
        pad_id: id written at padded positions.
        config: of the training.
        in_bfloat16: whether to compute under bfloat16 autocast.
        aids: what is added to the training.
        validation: rows whose loss is measured while training.
        progress: called with (step, total steps, loss) after each step, or None.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        examples: Sequence[Any],
        task: TrainingTask,
        *,
        pad_id: int,
        config: TrainConfig,
        in_bfloat16: bool,
        aids: Sequence[TrainingAid] = (),
        validation: Sequence[Any] = (),
        progress: Progress | None = None,
    ) -> None:
        self.order = BatchOrder([len(example) for example in examples], config.batch_size, args.seed)
        self.config, self.unreported = config, list[float]()
        self.summed_loss, self.in_bfloat16, self.progress = task.loss_of(model), in_bfloat16, progress
        self.aids, self.part = aids, (-1, 0)
        called = [callback for aid in aids for callback in aid.callbacks()]
        super().__init__(
            model=model,  # type: ignore[arg-type]  # PEFT models are accepted
            args=args,
            data_collator=task.collator(pad_id, packing=config.packing),  # type: ignore[arg-type]  # any callable on rows
            train_dataset=Rows(examples),
            eval_dataset=Rows(validation) if config.eval_steps else None,
            callbacks=[_EpochOrder(self.order), *called, *_asked_for(config, args)],
        )
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = True  # makes the Trainer count the labels of a step
        self.tokens_seen, self.seconds_before, self.started = 0, 0.0, time.perf_counter()

    def _get_train_sampler(self, train_dataset: Any = None) -> BatchOrder:
        return self.order

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The Trainer's optimiser, as aids prepare it.

        Raises:
            ConfigError: if the model is sharded over processes and an aid needs it whole.
        """
        made = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            refuse_sharding(self.aids)
        for aid in self.aids if made else ():
            aid.prepare(optimizer)
        return optimizer

    def training_step(
        self, model: nn.Module, inputs: dict[str, Tensor], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """The Trainer's pass; after the last one of a step, aids add to its gradients."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            scaler = self.accelerator.scaler
            add_gradients_(self.aids, self.state.global_step, 1.0 if scaler is None else scaler.get_scale())
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """This pass's part of the mean loss of the step: its summed loss over the step's labels.

        What aids add passes its gradient on and leaves the value alone, so that the losses of all methods are of the
        task and can be compared.

        Raises:
            NumericalError: if the loss is NaN or infinite.
        """
        assert num_items_in_batch is not None, "the Trainer counts the labels of every step"
        loss = self._summed(model, inputs)
        if not torch.isfinite(loss):
            raise self._diverged(float(loss.detach()))
        real = inputs.get("attention_mask")  # packed rows have none, and no padding
        self.tokens_seen += inputs["input_ids"].numel() if real is None else int(real.sum())
        # Several processes average their gradients, which divides by their number once more.
        loss = loss * (self.accelerator.num_processes / max(int(num_items_in_batch), 1))
        return self._aided(loss, model) if self.aids and model.training else loss

    def _aided(self, loss: Tensor, model: nn.Module) -> Tensor:
        step, part = self.part
        self.part = step, part = self.state.global_step, part + 1 if step == self.state.global_step else 0
        at = Pass(model, step, part, self.current_gradient_accumulation_steps, self.arithmetic)
        for aid in self.aids:
            share = aid.loss(at)
            if share is not None:
                loss = loss + (share - share.detach())
        return loss

    def arithmetic(self) -> AbstractContextManager[Any]:
        """The block computes in the training's precision; for one forward pass.

        Autocast forgets its cast weights only where its outermost block ends.
        """
        return torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.in_bfloat16)

    def _summed(self, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        with self.arithmetic():
            return self.summed_loss(model, inputs)

    def evaluation_loop(self, dataloader: Any, description: str, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """The mean loss per label of the validation rows, which the Trainer would take per pass.

        No data loader is asked for them: it would draw a random number, and the training go another way.

        Raises:
            NumericalError: if the loss is NaN or infinite.
        """
        rows, size = dataloader.dataset.examples, self.args.per_device_eval_batch_size
        model = self.head_owner.eval()
        total, labels = 0.0, 0
        for start in range(0, len(rows), size):
            batch = self._prepare_inputs(self.data_collator(rows[start : start + size]))
            with torch.no_grad():
                total += float(self._summed(model, batch))
            labels += int((batch["labels"] != UNSUPERVISED).sum())
        if not math.isfinite(total):
            raise self._diverged(total, "loss on validation rows")
        return EvalLoopOutput(None, None, {"eval_loss": total / labels}, len(rows))  # type: ignore[arg-type]  # no predictions

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        # What is to be gone back to, and where training ends, is written whatever `save_steps` says.
        best = super()._determine_best_metric(metrics, trial)
        ends = self.control.should_training_stop and self.args.save_strategy != SaveStrategy.NO
        self.control.should_save |= ends or (best and self.config.load_best)
        return best

    @property
    def head_owner(self) -> nn.Module:
        """The model without wrappers for several processes."""
        return self.model  # type: ignore[return-value]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Record a step's loss with the tokens and seconds so far, and report progress.

        Raises:
            NumericalError: if the gradient is NaN or infinite.
        """
        if "loss" in logs:
            if not math.isfinite(logs.get("grad_norm", 0.0)) and not self._seeks_scale():
                raise self._diverged(logs["grad_norm"], "gradient norm")
            seconds = self.seconds_before + time.perf_counter() - self.started
            logs = {**logs, "tokens": self.tokens_seen, "seconds": seconds}
            if self.progress is not None and self.is_world_process_zero():
                self.progress(self.state.global_step, self.state.max_steps, logs["loss"])
            self._record(logs)
        else:
            super().log(logs, start_time)

    def _record(self, logs: dict[str, float]) -> None:
        """Keep what every step came to, and tell trackers the mean of every `logging_steps`."""
        step = self.state.global_step
        logs = {**logs, "epoch": self.state.epoch or 0.0}
        self.state.log_history.append({**logs, "step": step})
        self.unreported.append(logs["loss"])
        if step % self.config.logging_steps == 0:
            logs["loss"] = sum(self.unreported) / len(self.unreported)
            self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs)
            self.unreported.clear()

    def _seeks_scale(self) -> bool:
        """Whether a step was passed over because the loss's scale, which float16 needs, was too large for it."""
        scaler = self.accelerator.scaler
        return scaler is not None and self.accelerator.optimizer_step_was_skipped and scaler.get_scale() >= 1

    def _diverged(self, value: float, what: str = "loss") -> NumericalError:
        return NumericalError(
            f"the {what} is not finite",
            where=f"step {self.state.global_step + (what == 'loss')} of {self.state.max_steps}",
            got=value,
            do=f"use a learning rate below {self.args.learning_rate:g}, or a longer warm-up",
        )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write what was learned so far; a sharded model is saved as the Trainer does."""
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super().save_model(output_dir, _internal_call)
        elif self.args.should_save:
            folder = Path(output_dir or self.args.output_dir or ".")
            save_learned(self.head_owner, folder)
            save_aids(self.aids, folder)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        out = Path(self.args.output_dir or ".")
        try:
            with checkpoint_written(out, self.state.global_step):
                super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            unwritten = StorageError(
                "the checkpoint could not be written",
                where=out,
                got=str(error),
                do="free some space, or allow writing, and run again: it goes on from the checkpoint before",
            )
            raise full_disk(error, out) or unwritten from error
        if self.args.should_save:
            drop_older(out, self.config.save_total_limit, self.state.best_global_step)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        # The Trainer would look for a PEFT folder; ours holds what is learned, of a model without adapters too.
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_learned_(self.head_owner, resume_from_checkpoint)
            load_aids(self.aids, Path(resume_from_checkpoint))

    def take_best(self) -> int:
        """Go back to the checkpoint of the lowest loss on validation rows; its step.

        Raises:
            StorageError: if it is not there any more.
        """
        step = int(self.state.best_global_step or 0)
        load_learned_(self.head_owner, checkpoint_of(Path(self.args.output_dir or "."), step))
        return step

    def let_go(self) -> None:
        """Take off the model what the Trainer puts on it: the noise of embeddings, autocast around its forward pass."""
        handle = getattr(self, "neftune_hook_handle", None)
        if handle is not None:
            handle.remove()
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)

    def go_on_from(self, history: list[dict[str, Any]]) -> None:
        """Count on from the tokens and seconds that the log of an interrupted training recorded."""
        recorded = [entry for entry in history if "tokens" in entry]
        if recorded:
            self.tokens_seen, self.seconds_before = recorded[-1]["tokens"], recorded[-1]["seconds"]


class _Patience(EarlyStoppingCallback):
    """transformers' early stopping, without its word where the model is left as it is at the end."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        pass  # the settings were checked


def _asked_for(config: TrainConfig, args: TrainingArguments) -> list[TrainerCallback]:
    """What ends a training early, and whom it is reported to."""
    patience = config.early_stopping_patience
    ends = [] if patience is None else [_Patience(patience)]
    return [*ends, *trackers(config.trackers, Path(args.output_dir or "."))]


class _EpochOrder(TrainerCallback):
    """Tells the row order which epoch begins, also where the data loader is wrapped for skipping or sharding."""

    def __init__(self, order: BatchOrder) -> None:
        self.order = order

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.order.set_epoch(int(state.epoch or 0))
