"""The results of a run over GLUE: scores of every job and of its seeds together, beside a guess that never looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from farss.config import HeadConfig, Recipe
from farss.datasets.glue import GlueRow, GlueTask
from farss.errors import DataError
from farss.evaluation.glue import GlueSample, load_samples, majority_samples, score
from farss.experiment.environment import device, versions
from farss.experiment.jobs import Job
from farss.experiment.runs.records import ACCOUNT
from farss.experiment.stages import DONE
from farss.reading import TEXT, object_of

SAMPLES = "samples.jsonl.gz"
SCHEMA_VERSION = 1

Done = tuple[GlueTask, Job, Path]


def assemble(
    recipe: Recipe,
    done: Sequence[Done],
    training: Mapping[str, Sequence[GlueRow]],
    head: HeadConfig,
    splits: tuple[str, ...],
) -> dict[str, Any]:
    """The content of `results.json`.

    Args:
        recipe: of the run.
        done: task, job and folder of every finished job.
        training: the training rows of every task, for the guess.
        head: as the run had it.
        splits: what was measured.

    Returns:
        Settings, versions and device; per task its metrics, what the commonest class (or mean) of the training rows
        would score, and per method and learning rate the scores over all seeds with every run's account.

    Raises:
        DataError: if a job is not finished.
        StorageError: if its account or its answers are damaged.
    """
    tasks = {task.name: task for task, _, _ in done}
    return {
        "schema_version": SCHEMA_VERSION,
        "model": recipe.model.name,
        "splits": list(splits),
        "head": head.to_mapping(),
        "recipe": recipe.to_mapping(),
        "versions": versions(),
        "device": device(recipe.device),
        "tasks": {
            name: _task(task, [row for row in done if row[0].name == name], training[name], recipe, splits)
            for name, task in tasks.items()
        },
    }


def _task(
    task: GlueTask, done: Sequence[Done], training: Sequence[GlueRow], recipe: Recipe, splits: tuple[str, ...]
) -> dict[str, Any]:
    answers = {job: load_samples(folder / SAMPLES) for _, job, folder in done}
    accounts = {job: _account(folder) for _, job, folder in done}
    groups = dict.fromkeys((job.method, job.learning_rate) for job in answers)
    rows = next(iter(answers.values()))
    guesses = {split: _guess(task, split, rows, training) for split in splits}

    def scores(runs: Sequence[Sequence[GlueSample]]) -> dict[str, Any]:
        chosen = {split: [[s for s in run if s.split == split] for run in runs] for split in splits}
        settings = recipe.eval
        return {
            split: score(task, parts, bootstrap=settings.bootstrap, seed=settings.seed)
            for split, parts in chosen.items()
        }

    methods = []
    for method, rate in groups:
        jobs = [job for job in answers if (job.method, job.learning_rate) == (method, rate)]
        runs = [{"seed": job.seed, "scores": scores([answers[job]]), **accounts[job]} for job in jobs]
        together = scores([answers[job] for job in jobs])
        methods.append({"method": method, "learning_rate": rate, "scores": together, "runs": runs})
    return {
        "metrics": list(task.metrics),
        "train_rows": len(training),
        "majority": scores([[guess for split in splits for guess in guesses[split]]]),
        "methods": methods,
    }


def _guess(task: GlueTask, split: str, samples: Sequence[GlueSample], training: Sequence[GlueRow]) -> list[GlueSample]:
    rows = [GlueRow(s.id, (), s.label) for s in samples if s.split == split]
    return majority_samples(task, split, rows, training)


def _account(folder: Path) -> dict[str, Any]:
    if not (folder / DONE).is_file():
        raise DataError("a job of the run is not finished", where=folder)
    content = ACCOUNT.read_as(folder / DONE, object_of(key=TEXT))
    return {name: value for name, value in content.items() if name != "key"}
