"""Plans that a run takes from folders of `farss init` (`init_from`) and does not make."""

from __future__ import annotations

import sys
from pathlib import Path

from farss.config import Recipe
from farss.errors import AdapterError
from farss.experiment.pinned import PLAN, differing_settings, start_of
from farss.experiment.runs.keys import planned_jobs
from farss.model.plan import Plan


def keep_given(recipe: Recipe, fingerprint: str, folder: Path) -> dict[str, float]:
    """Copy the plans of the folders that methods start from.

    Args:
        recipe: of the run.
        fingerprint: of its base model.
        folder: receives `NAME.json` for each.

    Returns:
        The seconds that each took here, by its name: none.

    Raises:
        AdapterError: if a folder was made for another base model.
    """
    taken: dict[str, float] = {}
    for job in planned_jobs(recipe):
        start = start_of(recipe, job.method)
        if start is None:
            continue
        plan = Plan.load(start.folder / PLAN)
        if plan.model_fingerprint != fingerprint:
            raise AdapterError(
                "the adapter was made for another base model",
                where=start.folder,
                expected=fingerprint,
                got=plan.model_fingerprint,
                do="initialise on the model of the recipe",
            )
        plan.save(folder / f"{job.plan_name}.json")
        taken[job.plan_name] = 0.0
    return taken


def say_differences(recipe: Recipe) -> None:
    """Name the settings by which a plan from a folder was decided otherwise than the recipe would decide it."""
    for job in planned_jobs(recipe):
        if others := differing_settings(job.recipe(recipe), job.method):
            text = f"{job.plan_name} starts from a folder that was made with other settings: {'; '.join(others)}"
            print(text, file=sys.stderr, flush=True)
