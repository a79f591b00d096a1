"""Models that were trained elsewhere, measured beside the jobs of a run: the same questions, base and arithmetic."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farss.errors import DataError
from farss.experiment.arithmetic import as_computed_in
from farss.experiment.fetched import Inputs
from farss.experiment.measuring import measure_subject
from farss.experiment.runs.finished import FinishedRun
from farss.experiment.runs.keys import Keys
from farss.experiment.stages import check_stage, run_stage, stage_key
from farss.experiment.subjects import Subject, check_subject
from farss.model.fingerprints import files_hash

PLACE = "measured"
"""The folder, in that of a comparison, with one folder for each model that was measured for it."""


@dataclass(frozen=True)
class Beside:
    """A model that was trained elsewhere.

    Attributes:
        name: that it has in the report.
        subject: the model.
        folder: of its measurement.
        key: of that stage.
    """

    name: str
    subject: Subject
    folder: Path
    key: str


@dataclass(frozen=True)
class Measured:
    """A model that was trained elsewhere, and the account of its measurement."""

    name: str
    folder: Path
    account: dict[str, Any]


def beside(run: FinishedRun, subjects: Mapping[str, Subject], place: Path) -> list[Beside]:
    """Where and under what key each is measured; folders that cannot be used are refused before anything is loaded.

    Args:
        run: whose base and questions they are measured by.
        subjects: by name.
        place: folder of the comparison.

    Raises:
        ModelError: if a fine-tuned model is damaged.
        OutputError: if a folder for the measurement holds somebody's files.
    """
    found = []
    for name, subject in subjects.items():
        check_subject(run.recipe, subject)
        one = Beside(name, subject, place / PLACE / name, _key(run, subject))
        check_stage(one.folder, one.key)
        found.append(one)
    return found


def measured(run: FinishedRun, found: Sequence[Beside]) -> list[Measured]:
    """Each measured by the recipe of the run, in a process of its own; what is measured already is reused.

    Raises:
        AdapterError, DataError: if one does not fit the run's base.
    """
    recipe = Inputs.of(as_computed_in(run.folder, run.recipe)) if found else run.recipe
    return [
        Measured(
            one.name,
            one.folder,
            run_stage(one.folder, one.key, functools.partial(measure_subject, recipe, one.subject)),
        )
        for one in found
    ]


def told_apart(folders: Sequence[Path], taken: Sequence[str]) -> list[str]:
    """Different names for the folders: their own, and with that of the folder around where names are equal.

    Raises:
        DataError: if one is named twice, or as a job of the runs.
    """
    names = [folder.resolve().name for folder in folders]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise DataError("a folder is named twice", got=", ".join(map(str, folders)))
    found: list[str] = []
    for folder, name in zip(folders, names, strict=True):
        if names.count(name) > 1 or name in taken:
            name = f"{folder.resolve().parent.name}-{name}"
        if name in found or name in taken:
            raise DataError("two of the compared have the same name", where=folder, got=name, do="rename one of them")
        found.append(name)
    return found


def _key(run: FinishedRun, subject: Subject) -> str:
    keys = Keys(run.recipe)
    content = files_hash(subject.folder)
    return stage_key(keys.base, keys.asked, str(subject.adapter is None), content)
