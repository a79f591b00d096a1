"""From the folders of finished stages to the content of `report.json`."""

from __future__ import annotations

import dataclasses
import datetime
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from farss.config import EvalConfig
from farss.errors import DataError
from farss.evaluation.differences import compare_methods
from farss.evaluation.forgetting import facts, facts_account
from farss.evaluation.frontier import frontier_points
from farss.evaluation.records import Measurement
from farss.evaluation.scores import compare_runs, compare_to_base, summarise
from farss.experiment.arithmetic import arithmetic_in
from farss.experiment.environment import versions
from farss.experiment.jobs import jobs_of
from farss.experiment.measuring import SAMPLES, VALIDATION, frontier_file
from farss.experiment.runs.beside import Measured
from farss.experiment.runs.finished import FinishedJob, FinishedRun
from farss.experiment.runs.groups import describe, groups_of
from farss.experiment.runs.records import spectra
from farss.experiment.runs.speeds import speeds_to_lora
from farss.experiment.validation import require_apart
from farss.methods import get_method, look_of
from farss.methods.base import Method
from farss.methods.factored import FactorMethod
from farss.methods.look import look_by_name
from farss.model.plan import Plan
from farss.report.runs import with_rate, with_variant
from farss.report.schema import SCHEMA_VERSION

FACTS_SHOWN = 40


def assemble(runs: list[FinishedRun], others: Sequence[Measured] = ()) -> dict[str, Any]:
    """The report over the jobs of one run, or of several that asked the same model the same questions.

    Args:
        runs: at least one.
        others: models that were trained elsewhere, measured as the first run's.

    Raises:
        DataError: if the runs differ in their model or in what the base answered.
    """
    first, others = runs[0], [*_subjects(runs), *others]
    before = Measurement.load(first.folder / "base" / SAMPLES)
    for other in runs[1:]:
        _require_same_questions(first, other, before)
    owners = _named_jobs(runs)
    places = {name: done.folder / "eval" for name, (_, done) in owners.items()}
    places |= {other.name: other.folder for other in others}
    measured = {name: Measurement.load(place / SAMPLES) for name, place in places.items()}
    chosen = selected_trials(owners, before)
    reference = reference_run({name: owners[name][1] for name in chosen}, measured)
    full = measured[reference] if reference else None
    settings = first.recipe.eval
    intervals = {"bootstrap": settings.bootstrap, "seed": settings.seed}
    scales = {name: run.recipe.eval.frontier_scales for name, (run, _) in owners.items()}
    scales |= {other.name: other.scales for other in others}
    frontiers = {name: _scaled(place, before, measured[name], scales[name]) for name, place in places.items()}
    elsewhere = {other.name: [other.name] for other in others}
    groups = groups_of(owners, chosen) | elsewhere
    differences = compare_methods(groups, measured, frontiers, before, full, **intervals)
    for name, ids in groups.items():
        said = {"method": name, "learning_rate": None} if name in elsewhere else describe(owners, ids)
        differences["methods"][name] = {**said, **differences["methods"][name]}
    speeds = speeds_to_lora([done for _, done in owners.values()])
    return {
        "schema_version": SCHEMA_VERSION,
        "name": " + ".join(run.recipe.name for run in runs),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "recipe": first.recipe.to_mapping(),
        "versions": versions(),
        "device": machines_of([done for _, done in owners.values()]),
        "arithmetic": arithmetic_in(first.folder),
        "model": first.planned["model"],
        "data": _data(first, before),
        "base": {"scores": summarise(before)},
        "runs": [
            {
                **_run_entry(name, *owner, measured[name], before, full),
                **_frontier(owner[0], frontiers[name], before, full),
                "train_speed_to_lora": speed,
                "selected": name in chosen,
            }
            for (name, owner), speed in zip(owners.items(), speeds, strict=True)
        ]
        + [
            {
                **_entry_from_elsewhere(other, measured[other.name], before, full, settings),
                **_frontier(first, frontiers[other.name], before, full),
            }
            for other in others
        ],
        "comparisons": compare_runs(
            {name: measured[name] for name in [*chosen, *elsewhere]}, before, full, **intervals
        ),
        "differences": differences,
        "spectra": spectra(first.folder / "plans" / "spectra.json"),
    }


def machines_of(jobs: Sequence[FinishedJob]) -> dict[str, Any] | None:
    """What the jobs were trained on, which need not be where the report is made; None where no account says.

    Of several machines there are only the names.
    """
    found: dict[str, dict[str, Any]] = {}
    for done in jobs:
        if machine := done.trained.get("machine"):
            found[machine["name"]] = {key: machine[key] for key in ("name", "cores", "memory_bytes")}
    if len(found) > 1:
        return {"name": " + ".join(found), "cores": None, "memory_bytes": None}
    return next(iter(found.values()), None)


def _require_same_questions(first: FinishedRun, other: FinishedRun, before: Measurement) -> None:
    if other.planned["model"]["fingerprint"] != first.planned["model"]["fingerprint"]:
        raise DataError("the runs are of different models", where=other.folder, expected=first.planned["model"]["name"])
    mine, theirs = arithmetic_in(first.folder), arithmetic_in(other.folder)
    if mine and theirs and mine["weights"] != theirs["weights"]:
        raise DataError(
            "the runs were computed in different dtypes, so their scores cannot be paired",
            where=other.folder,
            expected=f"{mine['weights']}, as {first.folder}",
            got=theirs["weights"],
            do="run one of them again with the other's --dtype",
        )
    if _questions(Measurement.load(other.folder / "base" / SAMPLES)) != _questions(before):
        raise DataError(
            "the runs asked different questions, so their scores cannot be paired",
            where=other.folder,
            expected=f"the questions of {first.folder}",
            do="run them with equal data and eval settings",
        )


def _questions(before: Measurement) -> list[tuple[str, ...]]:
    return [(s.set, s.id, s.question) for s in before.knowledge] + [(t.task, t.id, t.prompt) for t in before.task]


def _named_jobs(runs: list[FinishedRun]) -> dict[str, tuple[FinishedRun, FinishedJob]]:
    """The jobs by the id they get in the report: the same job once, different ones of one id told apart by folder."""
    owners: dict[str, tuple[FinishedRun, FinishedJob]] = {}
    for run in runs:
        for job in run.jobs:
            name = job.job.id
            if name in owners and owners[name][1].trained["key"] != job.trained["key"]:
                name = f"{name}@{run.folder.resolve().name}"
            if name in owners and owners[name][1].trained["key"] != job.trained["key"]:
                raise DataError("two run folders have the same name", where=run.folder, do="rename one of them")
            owners.setdefault(name, (run, job))
    return owners


def _subjects(runs: Sequence[FinishedRun]) -> list[Measured]:
    """The models trained elsewhere that the runs measured: one of a name, if it is the same.

    Raises:
        DataError: if two are called alike.
    """
    found: dict[str, Measured] = {}
    for one in (one for run in runs for one in run.subjects):
        if found.setdefault(one.name, one).account["key"] != one.account["key"]:
            raise DataError("two of the compared have the same name", where=one.folder, got=one.name)
    return list(found.values())


def selected_trials(owners: dict[str, tuple[FinishedRun, FinishedJob]], before: Measurement) -> list[str]:
    """The jobs that comparisons are made of: all, or where a recipe selects, one trial per method and seed.

    That is the one of lowest validation loss, and of equal ones the lower learning rate.

    Args:
        owners: the jobs by their id in the report.
        before: the base's samples, whose task rows are the ones that are scored.

    Raises:
        DataError: if a validation row is a scored row, or not all trials of a recipe that selects are finished.
    """
    for run in {id(run): run for run, _ in owners.values()}.values():
        if run.recipe.select == "validation" and len(run.jobs) < len(jobs_of(run.recipe)):
            raise DataError(
                "trials are unfinished, so none can be chosen",
                where=run.folder,
                expected=f"{len(jobs_of(run.recipe))} jobs",
                got=len(run.jobs),
                do="run its recipe again: it goes on where it stopped",
            )
    best: dict[tuple[object, ...], tuple[float, float, str]] = {}
    for name, (run, done) in owners.items():
        trial = (str(run.folder), done.job.series, done.job.seed)
        loss = 0.0
        if run.recipe.select == "none":
            trial = (*trial, name)
        else:
            loss = done.measured["validation_loss"]
            chosen_by = Measurement.load(done.folder / "eval" / VALIDATION)
            require_apart({s.prompt for s in chosen_by.task}, {s.prompt for s in before.task}, "scored")
        candidate = (loss, done.job.learning_rate, name)
        best[trial] = min(best.get(trial, candidate), candidate)
    kept = {name for _, _, name in best.values()}
    return [name for name in owners if name in kept]


def reference_run(jobs: dict[str, FinishedJob], measured: dict[str, Measurement]) -> str | None:
    """The full fine-tuning run that T is measured against; None if there is none.

    Of several the one of lowest validation loss, or of lowest held-out loss where one of them was not validated.
    """
    full = [name for name, done in jobs.items() if get_method(done.job.method).trains == "weights"]
    validated = all("validation_loss" in jobs[name].measured for name in full)
    return min(
        full,
        key=lambda name: jobs[name].measured["validation_loss"] if validated else measured[name].task_loss,
        default=None,
    )


def _data(run: FinishedRun, before: Measurement) -> dict[str, Any]:
    return {
        "task": run.recipe.data.task,
        "train_rows": run.recipe.data.train_rows,
        "train_tokens": run.jobs[0].trained["train_tokens"],
        "calibration_rows": run.planned["calibration_rows"],
        "calibration_tokens": run.planned["calibration_tokens"],
        "settled": run.planned.get("settled"),
        "rows": {
            "training": run.jobs[0].trained.get("rows"),
            "calibration": run.planned.get("rows"),
            "held_out": run.jobs[0].measured.get("rows"),
        },
        "validation_rows": run.jobs[0].measured.get("validation_rows"),
        "task_rows": sum(sample.loss is not None for sample in before.task),
        "generate_rows": sum(sample.correct is not None for sample in before.task),
        "knowledge": dict(Counter(sample.set for sample in before.knowledge)),
    }


def _run_entry(
    name: str, run: FinishedRun, job: FinishedJob, after: Measurement, before: Measurement, full: Measurement | None
) -> dict[str, Any]:
    settings = run.recipe.eval
    method = get_method(job.job.method)
    plan = Plan.load(run.folder / "plans" / f"{job.job.plan_name}.json") if job.job.adapts else None
    trained = job.trained
    place, look = name.partition("@")[2], look_of(method)
    return {
        "id": name,
        "method": job.job.method,
        "label": with_rate(with_variant(look.label, job.job.variant), job.job.learning_rate)
        + (f" @{place}" if place else ""),
        "variant": job.job.variant or None,
        "overrides": dict(job.job.overrides),
        "look": dataclasses.asdict(look),
        "learning_rate": job.job.learning_rate,
        "seed": job.job.seed,
        "validation_loss": job.measured.get("validation_loss"),
        "scores": summarise(after),
        "compared": compare_to_base(after, before, full, bootstrap=settings.bootstrap, seed=settings.seed),
        "trainable_params": trained["trainable_params"],
        "trained_share": trained["trainable_params"] / run.planned["model"]["parameters"],
        **_init_costs(method, run, job),
        "train_seconds": trained["train_seconds"],
        "train_tokens_per_second": trained["train_tokens_per_second"],
        "train_peak_bytes": trained["train_peak_bytes"],
        "eval_seconds": job.measured["eval_seconds"],
        "curve": trained["curve"],
        "while_training": trained.get("while_training"),
        "plan": _plan_summary(plan),
        "budget": _budget(plan),
        "facts": facts_account(facts(before, after), FACTS_SHOWN),
    }


def _entry_from_elsewhere(
    other: Measured, after: Measurement, before: Measurement, full: Measurement | None, settings: EvalConfig
) -> dict[str, Any]:
    """The entry of a model of which nothing is known but what it answers."""
    look = look_by_name(other.name)
    return {
        "id": other.name,
        "method": other.name,
        "label": look.label,
        "look": dataclasses.asdict(look),
        "trained_elsewhere": other.account["kind"],
        "selected": True,
        "scores": summarise(after),
        "compared": compare_to_base(after, before, full, bootstrap=settings.bootstrap, seed=settings.seed),
        "eval_seconds": other.account["eval_seconds"],
        "facts": facts_account(facts(before, after), FACTS_SHOWN),
    }


def _scaled(place: Path, before: Measurement, after: Measurement, scales: Sequence[float]) -> dict[float, Measurement]:
    """The measurements in a folder by scale of the update, ascending."""
    samples = {0.0: before, 1.0: after}
    for scale in scales:
        if scale not in samples:
            samples[scale] = Measurement.load(place / frontier_file(scale))
    return {scale: samples[scale] for scale in sorted(scales)}


def _frontier(
    run: FinishedRun, samples: dict[float, Measurement], before: Measurement, full: Measurement | None
) -> dict[str, Any]:
    settings = run.recipe.eval
    points, area = frontier_points(samples, before, full, bootstrap=settings.bootstrap, seed=settings.seed)
    return {"frontier": points, "frontier_area": area}


def _init_costs(method: Method, run: FinishedRun, job: FinishedJob) -> dict[str, Any]:
    if method.trains == "weights" or job.job.method in run.recipe.init_from:
        return {"init_seconds": job.trained["apply_seconds"], "init_peak_bytes": None}
    planned, statistics = run.planned, run.statistics_of(job.job)
    seconds = planned["seconds"][job.job.plan_name] + job.trained["apply_seconds"]
    peak = planned["peak_bytes"] if method.needs or isinstance(method, FactorMethod) else None
    if "spectrum" in method.needs:
        seconds += planned["seconds"]["spectrum"]
    for kind in sorted(method.needs & set(statistics)):
        seconds += statistics[kind]["seconds"]
        peak = max(statistics[kind]["peak_bytes"], peak)
    return {"init_seconds": seconds, "init_peak_bytes": peak}


def _budget(plan: Plan | None) -> dict[str, int] | None:
    """The trainable parameters asked for and had, where ranks were solved for a budget."""
    if plan is None or plan.requested_parameters is None:
        return None
    return {"requested": plan.requested_parameters, "realised": plan.trainable_parameters}


def _plan_summary(plan: Plan | None) -> dict[str, Any] | None:
    if plan is None:
        return None
    return {
        "targets": [
            {
                "name": t.name,
                "layer": t.layer,
                "kind": t.name.rpartition(".")[2],
                "region": t.region,
                "rank": t.rank,
                "importance": t.importance,
            }
            for t in plan.targets
        ],
        "requested": plan.requested_rank_total,
        "realised": plan.realised_rank_total,
        "shallow_layers": len({t.layer for t in plan.targets if t.region == "shallow"}),
    }
