"""Which passes over data a run takes: those that read the same are one, for all the plans that are made from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from farss.config import FarssConfig, Recipe
from farss.experiment.initialisation.settling import settles
from farss.experiment.jobs import Job
from farss.methods import get_method
from farss.methods.statistics import CURVATURE, statistics_of
from farss.statistics.kinds import Statistic
from farss.statistics.summed import Summed

CURVATURE_FOLDER = "statistics"
"""The folder of the curvature; those of the other statistics are called as they are."""

SETTLING = ("rank", "shallow_layers", "r_min", "r_avg", "r_max", "budget", "epsilon")
"""Settings of the plans by whose agreement `auto` decides how many rows are read."""


@dataclass(frozen=True)
class DataPass:
    """Statistics that plans share.

    Attributes:
        recipe: by which they are taken.
        jobs: one for every plan that is made of them; none where only weights are trained.
        judged: the configurations whose plans the rows must be enough for, where the data decide how many are read.
        keys: of the stages that take them, by the names of statistics; those of farss that none needs have one too.
        folders: their folders in the run's, likewise.
    """

    recipe: Recipe
    jobs: tuple[Job, ...]
    judged: tuple[FarssConfig, ...]
    keys: Mapping[str, str]
    folders: Mapping[str, str]

    @property
    def statistics(self) -> dict[str, Statistic[Summed]]:
        """What its plans are made from, by name."""
        return statistics_of([get_method(job.method) for job in self.jobs])

    def serves(self, job: Job) -> bool:
        """Whether the plan of a job is made of it."""
        return any(job.plan_name == one.plan_name for one in self.jobs)


def judged_of(recipe: Recipe, run: Recipe, jobs: Sequence[Job]) -> tuple[FarssConfig, ...]:
    """The different configurations whose plans decide how many rows are read; the recipe's own where nothing does.

    Args:
        recipe: of the pass.
        run: that the jobs are of.
        jobs: one for every plan.
    """
    reading = [job for job in jobs if "curvature" in get_method(job.method).needs]
    if not reading or not settles(recipe):
        return (recipe.init,)
    return tuple({str(settling(init)): init for init in (job.recipe(run).init for job in reading)}.values())


def settling(config: FarssConfig) -> dict[str, object]:
    """What of a configuration decides how many rows are enough."""
    return {name: getattr(config, name) for name in SETTLING}


def named_folders(passes: Sequence[DataPass]) -> list[DataPass]:
    """The passes with the folders that they are kept in: the first of a kind has its plain name, others a key's too."""
    plain: dict[str, str] = {}
    for one in passes:
        plain = {name: one.keys[name] for name in one.statistics} | plain
    return [
        dataclasses.replace(
            one,
            folders={
                name: _folder(name) if key == plain.get(name) else f"{_folder(name)}-{key[:8]}"
                for name, key in one.keys.items()
            },
        )
        for one in passes
    ]


def _folder(name: str) -> str:
    return CURVATURE_FOLDER if name == CURVATURE.name else name
