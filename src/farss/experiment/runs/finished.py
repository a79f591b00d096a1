"""What a run folder holds when its stages are done."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from farss.config import Recipe
from farss.errors import DataError
from farss.experiment.jobs import Job, jobs_of
from farss.experiment.runs import records
from farss.experiment.runs.beside import PLACE, Measured
from farss.experiment.runs.keys import Keys
from farss.experiment.runs.passes import DataPass
from farss.experiment.runs.records import account

RECIPE = "recipe.yaml"


@dataclasses.dataclass(frozen=True)
class FinishedJob:
    """A finished job: what it was, where it lies, and the accounts of its two stages."""

    job: Job
    folder: Path
    trained: dict[str, Any]
    measured: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A run folder whose stages are done, with the accounts of the stages its jobs share."""

    recipe: Recipe
    folder: Path
    planned: dict[str, Any]
    statistics: list[Statistics]
    jobs: list[FinishedJob]
    subjects: list[Measured]

    def statistics_of(self, job: Job) -> dict[str, dict[str, Any]]:
        """The accounts of the passes that a job's plan is made from, by what evidence they give."""
        return next((one.accounts for one in self.statistics if one.taken.serves(job)), {})


@dataclasses.dataclass(frozen=True)
class Statistics:
    """A pass over data, and the accounts of its stages by the evidence they give."""

    taken: DataPass
    accounts: dict[str, dict[str, Any]]


def load_run(folder: Path) -> FinishedRun:
    """The finished jobs of a run folder.

    Raises:
        DataError: if the folder is no run, or its base, its plans or all its jobs are unfinished.
        ConfigError, StorageError: if its recipe or an account of a stage is damaged.
    """
    if not (folder / RECIPE).exists():
        raise DataError(
            "not a run folder",
            where=folder,
            expected="a folder made by `farss run` or `farss demo`, of an adapter, or of a model",
        )
    recipe = Recipe.from_yaml(folder / RECIPE)
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
    statistics = [_statistics(folder, taken) for taken in keys.passes]
    return FinishedRun(recipe, folder, planned, statistics, jobs, _subjects(recipe, folder, keys))


def _subjects(recipe: Recipe, folder: Path, keys: Keys) -> list[Measured]:
    """The models trained elsewhere that are measured in it."""
    found = []
    for name, key in keys.subjects().items():
        done = account(folder / PLACE / name, key, records.MEASURING)
        if done is not None:
            found.append(Measured(name, folder / PLACE / name, done, recipe.eval.frontier_scales))
    return found


def _statistics(folder: Path, taken: DataPass) -> Statistics:
    accounts = {}
    for name in taken.statistics:
        done = account(folder / taken.folders[name], taken.keys[name], records.STATISTICS)
        if done is None:
            raise DataError(
                "the statistics that the plans were made from are not finished, or of an earlier version",
                where=folder / taken.folders[name],
                do="run its recipe again: statistics are taken anew, and trainings stay as they are",
            )
        accounts[name] = done
    return Statistics(taken, accounts)
