"""What a run folder holds when its stages are done."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from farss.config import Recipe
from farss.errors import DataError
from farss.experiment.jobs import Job, jobs_of
from farss.experiment.runs import records
from farss.experiment.runs.keys import Keys
from farss.experiment.runs.records import account
from farss.methods.base import STATISTICS


@dataclasses.dataclass(frozen=True)
class FinishedJob:
    """A finished job: what it was, where it lies, and the accounts of its two stages."""

    job: Job
    folder: Path
    trained: dict[str, Any]
    measured: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A run folder whose stages are done, with the accounts of the stages its jobs share; `statistics` by kind."""

    recipe: Recipe
    folder: Path
    planned: dict[str, Any]
    statistics: dict[str, dict[str, Any]]
    jobs: list[FinishedJob]


def load_run(folder: Path) -> FinishedRun:
    """The finished jobs of a run folder.

    Raises:
        DataError: if the folder is no run, or its base, its plans or all its jobs are unfinished.
        ConfigError, StorageError: if its recipe or an account of a stage is damaged.
    """
    if not (folder / "recipe.yaml").exists():
        raise DataError("not a run folder", where=folder, expected="a folder made by `farss run` or `farss demo`")
    recipe = Recipe.from_yaml(folder / "recipe.yaml")
    keys = Keys(recipe)  # what an earlier version of the recipe left is not part of this run
    planned = account(folder / "plans", keys.plans, records.plans_of(recipe))
    base = account(folder / "base", keys.base, records.BASE)
    jobs = []
    for job in jobs_of(recipe):
        trained = account(folder / job.id / "train", keys.training(job), records.training_of(job))
        measured = account(folder / job.id / "eval", keys.evaluation(job), records.measuring_of(recipe))
        if trained and measured:
            jobs.append(FinishedJob(job, folder / job.id, trained, measured))
    if planned is None or base is None or not jobs:
        raise DataError("the run is not finished", where=folder, do="run its recipe again: it goes on where it stopped")
    statistics = {"curvature": account(folder / "statistics", keys.statistics, records.STATISTICS)}
    for kind in STATISTICS:
        statistics[kind] = account(folder / kind, keys.gathered(kind), records.STATISTICS)
    return FinishedRun(recipe, folder, planned, {kind: done for kind, done in statistics.items() if done}, jobs)
