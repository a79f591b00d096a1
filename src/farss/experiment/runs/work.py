"""The work of each stage of a run. Every function fills a folder and returns a JSON-ready account of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from farss.config import Recipe
from farss.experiment import materials
from farss.experiment.accounts import describe_model
from farss.experiment.calibrating import calibration_rows, examples_of
from farss.experiment.environment import peak_bytes
from farss.experiment.initialisation.growing import forget
from farss.experiment.initialisation.planning import (
    Asked,
    Preparation,
    check_boundary,
    prepare,
    resolved,
    spectrum_folder,
)
from farss.experiment.initialisation.sharding import partial, take_enough_statistics, take_statistics
from farss.experiment.initialisation.statistics import STATISTICS, Shard, load_statistics, save_statistics
from farss.experiment.jobs import Job
from farss.experiment.progress import ProgressLine
from farss.experiment.runs.given import keep_given
from farss.experiment.runs.passes import DataPass
from farss.methods import get_method
from farss.methods.statistics import CURVATURE
from farss.model.plan import Plan
from farss.model.spectra import SpectrumCache
from farss.model.targets import find_targets
from farss.storage import write_json


def take_stage(taken: DataPass, name: str, run: Recipe, folder: Path) -> dict[str, Any]:
    """A pass over data for a statistic; leaves `stats.safetensors`.

    Args:
        taken: the pass that it belongs to.
        name: of the statistic.
        run: the recipe that jobs are of.
        folder: receives the file.
    """
    recipe, statistic = taken.recipe, taken.statistics[name]
    loaded = materials.load_for_statistics(recipe)
    targets = find_targets(loaded.model, recipe.init.targets, recipe.init.exclude)
    for job in taken.jobs:
        check_boundary(targets, resolved(job.recipe(run).init), [job.method])
    before = peak_bytes()
    started = time.perf_counter()
    with ProgressLine("statistics" if statistic is CURVATURE else name) as line:
        if statistic is CURVATURE:
            cache = SpectrumCache(spectrum_folder())
            found, origin = take_enough_statistics(recipe, loaded, folder, cache, line, judged=taken.judged)
        else:
            asking = next(job.method for job in taken.jobs if name in get_method(job.method).needs)
            found, origin = take_statistics(
                recipe, loaded, statistic, Shard(), folder / partial(statistic), line, asking
            )
    seconds = time.perf_counter() - started
    save_statistics(found, origin, folder / STATISTICS)
    forget(folder)
    (folder / partial(statistic)).unlink(missing_ok=True)
    return {
        "seconds": seconds,
        "peak_bytes": peak_bytes(),
        "model_bytes": before,
        "statistics_bytes": found.bytes,
        "rows": origin.data["rows"],
        "tokens": origin.data["tokens"],
        "settled": origin.data.get("settled"),
    }


def plan_methods(recipe: Recipe, passes: Sequence[DataPass], run: Path, folder: Path) -> dict[str, Any]:
    """Spectra and a plan for every method and variant: `NAME.json`, its factors if it has some, and `spectra.json`.

    Args:
        recipe: of the run.
        passes: over the data, whose stages are done.
        run: the folder that holds the folders of the passes.
        folder: receives the files.
    """
    accounts: list[dict[str, Any]] = []
    for taken in passes:
        found, preparation = _plan_from(taken, recipe, run)
        for name, plan in preparation.plans.items():
            plan.save(folder / f"{name}.json")
        if not accounts:
            write_json(folder / "spectra.json", spectra_for_report(preparation, taken.jobs))
        accounts.append(found)
    seconds = keep_given(recipe, accounts[0]["model"]["fingerprint"], folder)
    for found in accounts:
        for name, value in found["seconds"].items():  # of what every pass has, the first bore the cost
            seconds[name] = max(value, seconds.get(name, 0.0))
    return {**accounts[0], "seconds": seconds, "peak_bytes": peak_bytes()}


def _plan_from(taken: DataPass, run: Recipe, place: Path) -> tuple[dict[str, Any], Preparation]:
    """The account and the plans of what is made from one pass."""
    recipe = taken.recipe
    loaded = materials.load_for_statistics(recipe)
    _, data = examples_of(recipe, loaded.tokenizer, "task")
    found = {name: load_statistics(place / taken.folders[name] / STATISTICS) for name in taken.statistics}
    theirs = [(job, job.recipe(run)) for job in taken.jobs]
    preparation = prepare(
        loaded.model,
        [],
        recipe.init,
        [Asked(job.plan_name, job.method, own.init, own.match, own.budget_params) for job, own in theirs],
        identity=loaded.fingerprint,
        data=data,
        statistics={name: summed for name, (summed, _) in found.items()},
        origins={name: origin.data for name, (_, origin) in found.items()},
    )
    read = found[CURVATURE.name][1].data if CURVATURE.name in found else data
    return {
        "seconds": preparation.seconds,
        "calibration_rows": read["rows"],
        "calibration_tokens": read["tokens"],
        "settled": read.get("settled"),
        "rows": calibration_rows(recipe),
        "model": describe_model(loaded, preparation.targets),
    }, preparation


def spectra_for_report(preparation: Preparation, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Singular values, scores and every method's choice for one shallow and one deep module of the widest spread.

    Of a method with several variants the first one's choice is shown.
    """
    first = {job.method: job for job in reversed(jobs)}
    spectral = [job for job in first.values() if preparation.plans[job.plan_name].initialisation == "spectral"]
    scored = [job for job in spectral if "curvature" in get_method(job.method).needs]
    if not scored or preparation.evidence.spectra is None:
        return []
    plan = preparation.plans[scored[-1].plan_name]
    targets = {target.name: target for target in preparation.targets}
    chosen = []
    for region in ("shallow", "deep"):
        planned = [t for t in plan.targets if t.region == region]
        if not planned:
            continue
        entry = planned[len(planned) // 2]
        target = targets[entry.name]
        scores = preparation.evidence.scores(target)
        finite = torch.nan_to_num(scores.log_s, neginf=float(scores.log_s[scores.log_s.isfinite()].min()))
        chosen.append(
            {
                "name": entry.name,
                "region": region,
                "sigma": preparation.evidence.spectra(target).sigma.tolist(),
                "log_scores": finite.tolist(),
                "chosen": {
                    job.series: list(_indices(preparation.plans[job.plan_name], entry.name))
                    for job in reversed(spectral)
                },
            }
        )
    return chosen


def _indices(plan: Plan, name: str) -> tuple[int, ...]:
    return next((t.indices or () for t in plan.targets if t.name == name), ())
