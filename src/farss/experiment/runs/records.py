"""What a run folder's small files must hold, read with limits: the accounts that stages leave, and the spectra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from farss.config import Recipe
from farss.errors import StorageError
from farss.experiment.jobs import Job, jobs_of
from farss.experiment.stages import DONE
from farss.methods import get_method
from farss.methods.statistics import SPECTRUM
from farss.reading import AMOUNT, COUNT, TEXT, Document, object_of
from farss.report.schema import SPECTRA, WHILE_TRAINING

AGAIN = "delete the folder it stands in and run the recipe again: only this stage is done anew"
ACCOUNT = Document("account of a stage", StorageError, damaged=AGAIN)
SPECTRA_FILE = Document("file of spectra", StorageError, most_bytes=256 << 20, damaged=AGAIN)

STATISTICS = object_of(seconds=AMOUNT, peak_bytes=AMOUNT)
BASE = object_of()
PLANS = object_of(
    seconds={"type": "object", "additionalProperties": AMOUNT},
    peak_bytes=AMOUNT,
    calibration_rows=COUNT,
    calibration_tokens=COUNT,
    model=object_of(
        name=TEXT, fingerprint=TEXT, parameters={"type": "integer", "minimum": 1}, layers={"type": "integer"}
    ),
)
TRAINING = object_of(
    trainable_params=COUNT,
    train_seconds=AMOUNT,
    train_tokens=COUNT,
    train_tokens_per_second=AMOUNT,
    train_peak_bytes=AMOUNT,
    curve={
        "type": "array",
        "items": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
    },
)
TRAINING["properties"]["machine"] = object_of(name=TEXT) | {"type": ["object", "null"]}
TRAINING["properties"]["apply_seconds"] = AMOUNT
TRAINING["properties"]["while_training"] = WHILE_TRAINING
MEASURING = object_of(eval_seconds=AMOUNT)
VALIDATION = {"validation_loss": AMOUNT, "validation_rows": COUNT}
MEASURING["properties"] |= VALIDATION


def plans_of(recipe: Recipe) -> dict[str, Any]:
    """The schema of the account of a recipe's plans: it has the time of every method that was planned."""
    jobs = [job for job in jobs_of(recipe) if job.adapts]
    needs = {need for job in jobs for need in get_method(job.method).needs}
    timed = [*dict.fromkeys(job.plan_name for job in jobs), *sorted({SPECTRUM} & needs)]
    seconds = PLANS["properties"]["seconds"] | {"required": timed}
    return {**PLANS, "properties": PLANS["properties"] | {"seconds": seconds}}


def training_of(job: Job) -> dict[str, Any]:
    """The schema of the account of a job's training."""
    applied = ["apply_seconds"] if get_method(job.method).trains == "adapter" else []
    return {**TRAINING, "required": [*TRAINING["required"], *applied]}


def measuring_of(recipe: Recipe) -> dict[str, Any]:
    """The schema of the account of a job's evaluation: with a validation loss where trials are chosen by it."""
    chosen = list(VALIDATION) if recipe.select == "validation" else []
    return {**MEASURING, "required": [*MEASURING["required"], *chosen]}


def account(folder: Path, key: str, schema: dict[str, Any]) -> dict[str, Any] | None:
    """What a stage left when it was done with this key; None if it was not.

    Args:
        folder: of the stage.
        key: as `farss.experiment.stages.stage_key` gives it.
        schema: what it must hold.

    Raises:
        StorageError: if the account is damaged, naming the file and the place in it.
    """
    path = folder / DONE
    if not path.exists():
        return None
    content = ACCOUNT.read_object(path)
    if content.get("key") != key:
        return None
    return ACCOUNT.checked(content, schema, path)


def spectra(path: Path) -> list[dict[str, Any]]:
    """The spectra that a run's report shows.

    Raises:
        StorageError: if the file is missing or damaged.
    """
    return SPECTRA_FILE.read_as(path, SPECTRA) or []
