"""The step that trains: for `farss train`, for the jobs of a run and for the classifiers of `farss glue`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from farss.adapters.files import save_adapter
from farss.config import Recipe, TrainConfig
from farss.datasets.dates import published
from farss.experiment import materials
from farss.experiment.progress import ProgressLine
from farss.training.sft import TrainReport, train
from farss.training.tasks import TrainingTask

Trains = Literal["adapter", "weights"]
ADAPTER, MODEL = "adapter", "model"
"""Where what was learned is kept: an adapter, or a whole model."""


@dataclass(frozen=True)
class Rows:
    """What is learned from, as token ids.

    Attributes:
        examples: the training rows.
        validation: rows whose loss is measured while training, if it is.
        account: what became of all rows, JSON-ready.
    """

    examples: Sequence[Any]
    validation: Sequence[Any] = ()
    account: dict[str, Any] | None = None

    @classmethod
    def of(cls, recipe: Recipe, tokenizer: Any) -> Rows:
        """Those a recipe names.

        Raises:
            DataError: if rows are missing, lack fields, or keep no response token.
        """
        training = materials.training_set(recipe, tokenizer)
        return cls(training.examples, materials.validation_examples(recipe, tokenizer), training.account.summary())


def fit(
    model: nn.Module,
    tokenizer: Any,
    rows: Rows,
    config: TrainConfig,
    checkpoints: Path | None,
    *,
    title: str = "training",
    trains: Trains = "adapter",
    task: TrainingTask | None = None,
) -> TrainReport:
    """Train a model in place, with a line of progress; arguments and errors are those of `farss.training.sft.train`."""
    with ProgressLine(title) as line:
        return train(
            model,
            tokenizer,
            rows.examples,
            config,
            checkpoints,
            validation=rows.validation,
            task=task,
            trains=trains,
            progress=lambda step, total, loss: line(step, total, f"loss {loss:.3f}"),
        )


def keep_learned(recipe: Recipe, model: Any, tokenizer: Any, folder: Path, trains: Trains = "adapter") -> None:
    """Write what was learned into `folder`: `adapter/`, all that is needed to go on, or `model/`; with how it is asked.

    Raises:
        StorageError: if it cannot be written.
    """
    taught = materials.taught(recipe, tokenizer)
    if trains == "adapter":
        save_adapter(model, folder / ADAPTER, taught=taught)
        return
    model.save_pretrained(folder / MODEL)
    taught.asking(published(tokenizer)).save_pretrained(folder / MODEL)


def training_account(report: TrainReport) -> dict[str, Any]:
    """What a training took and how it went, for the account of a stage."""
    return {
        "train_seconds": report.seconds,
        "train_steps": report.steps,
        "train_tokens": report.tokens,
        "train_tokens_per_second": report.tokens_per_second,
        "train_peak_bytes": report.peak_bytes,
        **how_it_went(report),
    }


def how_it_went(report: TrainReport) -> dict[str, Any]:
    """The losses by step and on validation rows, and what the method adds."""
    return {
        "curve": [list(point) for point in report.curve],
        **report.account,
        "while_training": None if report.validated is None else report.validated.to_mapping(),
    }
