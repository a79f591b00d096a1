"""Models that were trained elsewhere, measured beside the jobs of a run: the same questions, base and arithmetic."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farss.config import Recipe
from farss.errors import DataError
from farss.experiment.measuring import measure_subject
from farss.experiment.runs.keys import Keys
from farss.experiment.stages import check_stage, run_stage, stage_key
from farss.experiment.subjects import Subject, check_subject
from farss.experiment.workers import WHOLE, Share
from farss.model.fingerprints import files_hash

PLACE = "measured"
"""The folder, in that of a run or a comparison, with one folder for each model that was measured for it."""


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

    def check(self, recipe: Recipe) -> None:
        """Refuse what cannot be used before anything is loaded.

        Raises:
            ModelError: if a fine-tuned model is damaged.
            OutputError: if the folder for the measurement holds somebody's files.
        """
        check_subject(recipe, self.subject)
        check_stage(self.folder, self.key)

    def measure(self, recipe: Recipe, share: Share = WHOLE) -> Measured:
        """Measured by a recipe, in a process of its own; what is measured already is reused.

        Raises:
            AdapterError, DataError: if it does not fit the recipe's base.
        """
        work = functools.partial(measure_subject, recipe, self.subject)
        account = run_stage(self.folder, self.key, work, share)
        return Measured(self.name, self.folder, account, recipe.eval.frontier_scales)


@dataclass(frozen=True)
class Measured:
    """A model that was trained elsewhere, and the account of its measurement, at these scales of its update."""

    name: str
    folder: Path
    account: dict[str, Any]
    scales: tuple[float, ...]


def beside(recipe: Recipe, name: str, subject: Subject, place: Path) -> Beside:
    """Where and under what key a model is measured for a comparison.

    Args:
        recipe: of the run whose base and questions it is measured by.
        name: that it gets.
        subject: the model.
        place: folder of the comparison.
    """
    keys = Keys(recipe)
    key = stage_key(keys.base, keys.asked, str(subject.adapter is None), files_hash(subject.folder))
    return Beside(name, subject, place / PLACE / name, key)


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
