"""A whole run: plan, train, evaluate and report every job of a recipe, resuming from what is finished."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from farss.config import Recipe
from farss.experiment import materials
from farss.experiment.arithmetic import ARITHMETIC, settle_in
from farss.experiment.dating import date_in, dated
from farss.experiment.fetched import Inputs
from farss.experiment.jobs import Job, jobs_of, methods_needing, recipes_of, validate
from farss.experiment.measuring import measure_base, measure_job
from farss.experiment.outputs import begin_again, check_output, inputs_on_disk, rescued
from farss.experiment.pinned import pinned, subjects_of
from farss.experiment.runs.assemble import assemble
from farss.experiment.runs.beside import PLACE, Beside
from farss.experiment.runs.finished import load_run
from farss.experiment.runs.given import say_differences
from farss.experiment.runs.inputs import inputs_of
from farss.experiment.runs.keys import Keys
from farss.experiment.runs.outlook import BASE, PLANS, Remaining
from farss.experiment.runs.training import train_job
from farss.experiment.runs.work import plan_methods, take_stage
from farss.experiment.serving import check_served
from farss.experiment.space import check_space, run_space
from farss.experiment.stages import check_stage, finished, run_stage
from farss.experiment.subjects import Subject, check_subject
from farss.experiment.unchanged import INPUTS, check_unchanged
from farss.experiment.workers import Share, Task, run_all, shares
from farss.methods.statistics import KNOWLEDGE
from farss.processes import require_one_process
from farss.report import write_report
from farss.storage import held, write_atomically
from farss.storage.owned import take, writing

VERB = "run"
FILES = (ARITHMETIC, "recipe.yaml", INPUTS, "report.json", "report.html")
"""What a run writes beside its stages."""


def run(
    recipe: Recipe, out: str | Path | None = None, workers: int = 1, *, fresh: bool = False
) -> tuple[dict[str, Any], Path]:
    """Carry out a recipe and write its report; stages finished by an earlier call are reused.

    Every stage runs in a process of its own, so a script that calls this needs `if __name__ == "__main__":` around it.

    Args:
        recipe: model, data, methods, learning rates, seeds and settings.
        out: the run folder; `recipe.out`, or `runs/NAME`, by default.
        workers: how many jobs train and are measured at a time, each with its share of the threads, or a GPU of its
            own where there are some; the base is measured while plans are made.
        fresh: remove what an earlier call left in the folder, and begin again.

    Returns:
        The report (the content of `report.json`) and the folder that holds it.

    Raises:
        FarssError: see `docs/errors.md`; finished stages stay.
    """
    require_one_process("farss run")
    recipe = Inputs.of(recipe)
    validate(recipe)
    if recipe.eval.backend == "vllm":
        check_served(recipe)
    recipe = pinned(recipe)
    Keys(recipe).check_comparable()
    folder = Path(out or recipe.out or Path("runs") / recipe.name)
    check_output(VERB, folder, inputs_on_disk(recipe), FILES, fresh=fresh)
    recipe = dated(recipe, None if fresh else date_in(folder / "recipe.yaml"))
    keys = Keys(recipe)
    if not fresh:
        for place, key in _stages(recipe, folder, keys):
            check_stage(place, key)
    for one in _beside(recipe, folder, keys):
        check_subject(recipe, one.subject)
    say_differences(recipe)
    parts = shares(workers)
    for one in recipes_of(recipe):
        materials.check_inputs(one)  # with select: validation, the division of the rows too
    if methods_needing(recipe, KNOWLEDGE.name):
        materials.knowledge_prompts(recipe)
    left = [job for job in jobs_of(recipe) if fresh or not finished(folder / job.id / "train", keys.training(job))]
    planned = not fresh and finished(folder / "plans", keys.plans) is not None
    rows = max(len(materials.training_rows(one)) for one in recipes_of(recipe))
    check_space(folder, *run_space(recipe, left, planned, rows))
    with held(folder):
        begin_again(folder, fresh)
        take(folder, VERB)
        for one in recipes_of(recipe):
            check_unchanged(inputs_of(one), folder)
        with writing(folder, "recipe.yaml"):
            write_atomically(folder / "recipe.yaml", lambda file: file.write_text(recipe.to_yaml(), encoding="utf-8"))
        settled, decided = settle_in(folder, recipe)
        remaining = Remaining(settled, decided, len(parts), _done(recipe, folder, keys))
        run_all(_tasks(settled, folder, keys, remaining, len(parts)), parts)
        report = assemble([load_run(folder)])
        with rescued(report), writing(folder, "report.json", "report.html"):
            write_report(report, folder)
    return report, folder


def _stages(recipe: Recipe, folder: Path, keys: Keys) -> Iterator[tuple[Path, str]]:
    """Folder and key of every stage."""
    for taken in keys.passes:
        yield from ((folder / taken.folders[name], taken.keys[name]) for name in taken.statistics)
    yield folder / "plans", keys.plans
    yield folder / "base", keys.base
    for job in jobs_of(recipe):
        yield folder / job.id / "train", keys.training(job)
        yield folder / job.id / "eval", keys.evaluation(job)
    yield from ((one.folder, one.key) for one in _beside(recipe, folder, keys))


def _beside(recipe: Recipe, folder: Path, keys: Keys) -> list[Beside]:
    """The models trained elsewhere that are measured in the run."""
    places, found = subjects_of(recipe), keys.subjects()
    kinds = {name: Subject.in_folder(place.folder) for name, place in places.items()}
    return [Beside(name, kind, folder / PLACE / name, found[name]) for name, kind in kinds.items() if kind]


def _done(recipe: Recipe, folder: Path, keys: Keys) -> list[str]:
    """What an earlier call finished, by the names of `Remaining`."""
    stages = {PLANS: (folder / "plans", keys.plans), BASE: (folder / "base", keys.base)}
    stages |= {one.name: (one.folder, one.key) for one in _beside(recipe, folder, keys)}
    stages |= {job.id: (folder / job.id / "eval", keys.evaluation(job)) for job in jobs_of(recipe)}
    return [name for name, (place, key) in stages.items() if finished(place, key)]


def _tasks(recipe: Recipe, folder: Path, keys: Keys, remaining: Remaining, workers: int) -> list[Task]:
    """All work of a run: an adapter waits for its plan, and a measurement for its training.

    A measurement stands `workers` trainings behind its own, so that no worker waits while there is something to train
    and none is left alone with a whole job at the end; one worker does job after job.
    """

    def told(name: str, work: Callable[[Share], object], after: tuple[Task, ...] = ()) -> Task:
        def call(share: Share) -> None:
            work(share)
            remaining.finished(name)

        return Task(call, after)

    measure = functools.partial(run_stage, folder / "base", keys.base, functools.partial(measure_base, recipe))
    plans = told(PLANS, functools.partial(_plan, recipe, folder, keys))
    trainings, measurements = [], []
    for job in jobs_of(recipe):
        training = Task(functools.partial(_train, recipe, folder, keys, job), (plans,) if job.adapts else ())
        trainings.append(training)
        measurements.append(told(job.id, functools.partial(_measure, recipe, folder, keys, job), (training,)))
    others = [told(one.name, functools.partial(one.measure, recipe)) for one in _beside(recipe, folder, keys)]
    return [plans, told(BASE, measure), *others, *_lagging(trainings, measurements, 0 if workers == 1 else workers)]


def _lagging(first: Sequence[Task], then: Sequence[Task], lag: int) -> Iterator[Task]:
    """All of `first` in their order, each one's follower in `then` behind the `lag` next of them."""
    for place in range(len(first) + lag):
        yield from first[place : place + 1]
        if place >= lag:
            yield then[place - lag]


def _train(recipe: Recipe, folder: Path, keys: Keys, job: Job, share: Share) -> None:
    place = folder / job.id
    work = functools.partial(train_job, job.recipe(recipe), job, folder / "plans")
    run_stage(place / "train", keys.training(job), work, share)


def _measure(recipe: Recipe, folder: Path, keys: Keys, job: Job, share: Share) -> None:
    place = folder / job.id
    work = functools.partial(measure_job, job.recipe(recipe), job, place / "train")
    run_stage(place / "eval", keys.evaluation(job), work, share)


def _plan(recipe: Recipe, folder: Path, keys: Keys, share: Share) -> None:
    for taken in keys.passes:
        for name in taken.statistics:
            work = functools.partial(take_stage, taken, name, recipe)
            run_stage(folder / taken.folders[name], taken.keys[name], work, share)
    run_stage(folder / "plans", keys.plans, functools.partial(plan_methods, recipe, keys.passes, folder), share)
