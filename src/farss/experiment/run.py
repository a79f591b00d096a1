"""A whole run: plan, train, evaluate and report every job of a recipe, resuming from what is finished."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from farss.config import Recipe
from farss.experiment.assemble import assemble, load_run
from farss.experiment.jobs import jobs_of, methods_needing, validate
from farss.experiment.measuring import measure_base, measure_job
from farss.experiment.stages import run_stage, stage_key
from farss.experiment.work import collect_statistics, plan_methods, train_job
from farss.report import write_report
from farss.storage import write_atomically


def run(recipe: Recipe, out: str | Path | None = None) -> tuple[dict[str, Any], Path]:
    """Carry out a recipe and write its report; stages finished by an earlier call are reused.

    Args:
        recipe: model, data, methods, learning rates, seeds and settings.
        out: the run folder; `recipe.out`, or `runs/NAME`, by default.

    Returns:
        The report (the content of `report.json`) and the folder that holds it.

    Raises:
        FarssError: see `docs/errors.md`; finished stages stay.
    """
    validate(recipe)
    folder = Path(out or recipe.out or Path("runs") / recipe.name)
    write_atomically(folder / "recipe.yaml", lambda file: file.write_text(recipe.to_yaml(), encoding="utf-8"))
    given = stage_key(recipe.model.to_mapping(), recipe.data.to_mapping())
    questions = stage_key(given, recipe.eval.to_mapping())
    run_stage(folder / "base", questions, functools.partial(measure_base, recipe))
    _plan(recipe, folder, given)
    for job in jobs_of(recipe):
        place = folder / job.id
        training = stage_key(given, recipe.init.to_mapping(), recipe.train.to_mapping(), job.to_mapping())
        run_stage(place / "train", training, functools.partial(train_job, recipe, job, folder / "plans"))
        measuring = functools.partial(measure_job, recipe, job, place / "train")
        run_stage(place / "eval", stage_key(training, questions), measuring)
    report = assemble([load_run(folder)])
    write_report(report, folder)
    return report, folder


def _plan(recipe: Recipe, folder: Path, given: str) -> None:
    init, statistics = recipe.init.to_mapping(), None
    if methods_needing(recipe, "curvature"):
        statistics = folder / "statistics"
        run_stage(statistics, stage_key(given, init), functools.partial(collect_statistics, recipe))
    key = stage_key(given, init, sorted(recipe.methods))
    run_stage(folder / "plans", key, functools.partial(plan_methods, recipe, statistics))


def compare(runs: list[Path], out: Path) -> dict[str, Any]:
    """Write one report over the finished jobs of several run folders, paired question by question.

    Raises:
        DataError: if a folder is no finished run, or they differ in model or questions.
    """
    report = assemble([load_run(folder) for folder in runs])
    write_report(report, out)
    return report
