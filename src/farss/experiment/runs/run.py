"""A whole run: plan, train, evaluate and report every job of a recipe, resuming from what is finished."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from farss.config import Recipe
from farss.experiment import materials
from farss.experiment.arithmetic import settle_in
from farss.experiment.jobs import Job, jobs_of, methods_needing, validate
from farss.experiment.measuring import measure_base, measure_job
from farss.experiment.runs.assemble import assemble
from farss.experiment.runs.finished import load_run
from farss.experiment.runs.inputs import inputs_of
from farss.experiment.runs.keys import Keys
from farss.experiment.runs.work import collect_statistics, gather_statistics, plan_methods, train_job
from farss.experiment.stages import run_stage
from farss.experiment.unchanged import check_unchanged
from farss.experiment.workers import Share, run_all, shares
from farss.methods.base import KNOWLEDGE, STATISTICS
from farss.report import write_report
from farss.storage import held, write_atomically


def run(recipe: Recipe, out: str | Path | None = None, workers: int = 1) -> tuple[dict[str, Any], Path]:
    """Carry out a recipe and write its report; stages finished by an earlier call are reused.

    Every stage runs in a process of its own, so a script that calls this needs `if __name__ == "__main__":` around it.

    Args:
        recipe: model, data, methods, learning rates, seeds and settings.
        out: the run folder; `recipe.out`, or `runs/NAME`, by default.
        workers: how many jobs train and are measured at a time, each with its share of the threads, or a GPU of its
            own where there are some. Shared stages (base, statistics, plans) use the whole machine.

    Returns:
        The report (the content of `report.json`) and the folder that holds it.

    Raises:
        FarssError: see `docs/errors.md`; finished stages stay.
    """
    validate(recipe)
    parts = shares(workers)
    materials.check_inputs(recipe)  # with select: validation, the division of the rows too
    if methods_needing(recipe, KNOWLEDGE):
        materials.knowledge_prompts(recipe)
    folder = Path(out or recipe.out or Path("runs") / recipe.name)
    with held(folder):
        check_unchanged(inputs_of(recipe), folder)
        write_atomically(folder / "recipe.yaml", lambda file: file.write_text(recipe.to_yaml(), encoding="utf-8"))
        settled, _ = settle_in(folder, recipe)
        keys = Keys(recipe)  # of what was asked: the folder itself keeps to one arithmetic
        _plan(settled, folder, keys)
        run_stage(folder / "base", keys.base, functools.partial(measure_base, settled))
        run_all([functools.partial(_carry_out, settled, folder, keys, job) for job in jobs_of(recipe)], parts)
        report = assemble([load_run(folder)])
        write_report(report, folder)
    return report, folder


def _carry_out(recipe: Recipe, folder: Path, keys: Keys, job: Job, share: Share) -> None:
    place = folder / job.id
    run_stage(place / "train", keys.training(job), functools.partial(train_job, recipe, job, folder / "plans"), share)
    run_stage(place / "eval", keys.evaluation(job), functools.partial(measure_job, recipe, job, place / "train"), share)


def _plan(recipe: Recipe, folder: Path, keys: Keys) -> None:
    statistics = None
    if methods_needing(recipe, "curvature"):
        statistics = folder / "statistics"
        run_stage(statistics, keys.statistics, functools.partial(collect_statistics, recipe))
    further = {kind: folder / kind for kind in STATISTICS if methods_needing(recipe, kind)}
    for kind, place in further.items():
        run_stage(place, keys.gathered(kind), functools.partial(gather_statistics, recipe, kind))
    run_stage(folder / "plans", keys.plans, functools.partial(plan_methods, recipe, statistics, further))


def compare(runs: list[Path], out: Path) -> dict[str, Any]:
    """Write one report over the finished jobs of several run folders, paired question by question.

    Raises:
        DataError: if a folder is no finished run, or they differ in model or questions.
    """
    report = assemble([load_run(folder) for folder in runs])
    write_report(report, out)
    return report
