"""Which finished jobs are trainings of one method: equal in everything but the seed."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from farss.experiment.jobs import learning_rates_of
from farss.experiment.runs.keys import Keys

if TYPE_CHECKING:
    from farss.experiment.runs.finished import FinishedJob, FinishedRun

NO_RATE = 1.0
"""Stands for the learning rate of trainings that validation chose it for: seeds may have been given different ones."""


def groups_of(owners: Mapping[str, tuple[FinishedRun, FinishedJob]], chosen: Sequence[str]) -> dict[str, list[str]]:
    """The chosen jobs by method: those that differ in nothing but their seed stand together.

    Without selection by validation, each learning rate is a method of its own. Folders may share a method, one seed
    each; a method trained otherwise (another rank, more rows) stands apart.

    Args:
        owners: run and job by id in the report.
        chosen: the ids that are compared.

    Returns:
        Ids by name, in the order of `chosen`: the method's name, with the learning rate and then with the first id's
        folder or a number where it takes that to tell groups apart.
    """
    groups: dict[tuple[object, ...], list[str]] = {}
    for name in chosen:
        groups.setdefault(_likeness(*owners[name]), []).append(name)
    spellings = [_spellings(*owners[ids[0]]) for ids in groups.values()]
    return dict(zip(_told_apart(spellings), groups.values(), strict=True))


def describe(owners: Mapping[str, tuple[FinishedRun, FinishedJob]], ids: Sequence[str]) -> dict[str, Any]:
    """What the trainings of one group have in common, for the report; no learning rate where theirs differ."""
    jobs = [owners[name][1].job for name in ids]
    rates = {job.learning_rate for job in jobs}
    return {
        "method": jobs[0].method,
        "variant": jobs[0].variant or None,
        "learning_rate": rates.pop() if len(rates) == 1 else None,
    }


def _likeness(run: FinishedRun, done: FinishedJob) -> tuple[object, ...]:
    selects = run.recipe.select == "validation"
    rate = NO_RATE if selects else done.job.learning_rate
    like = dataclasses.replace(done.job, seed=0, learning_rate=rate)
    grid = learning_rates_of(run.recipe, done.job.method) if selects else ()
    return (Keys(run.recipe).training(like), grid)


def _spellings(run: FinishedRun, done: FinishedJob) -> tuple[str, ...]:
    with_rate = f"{done.job.series} lr {done.job.learning_rate:g}"
    return (done.job.series, with_rate, f"{with_rate} @{run.folder.resolve().name}")


def _told_apart(spellings: Sequence[tuple[str, ...]]) -> list[str]:
    """The first spelling of each that no other group has, else the last one with a number."""
    counts = [Counter(level) for level in zip(*spellings, strict=True)]
    names: list[str] = []
    for one in spellings:
        plain = next((s for s, count in zip(one, counts, strict=True) if count[s] == 1), None)
        names.append(plain or f"{one[-1]} #{1 + sum(n.startswith(one[-1]) for n in names)}")
    return names
