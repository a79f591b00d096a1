"""Folders that a recipe starts from or measures (`init_from`, `subjects`), each pinned to what it holds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from farss.config import Recipe
from farss.errors import ConfigError
from farss.experiment.fetched import fetched_by
from farss.experiment.steps import ADAPTER, recipe_of, require_adapter
from farss.experiment.subjects import Subject
from farss.methods import get_method
from farss.model.fingerprints import files_hash
from farss.model.plan import Plan
from farss.settings import differences

PIN = re.compile(r"(.+)@([0-9a-f]{16})")
"""How a pinned folder is written in the recipe that a run keeps: `FOLDER@DIGEST`."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
PLAN = "plan.json"
DECIDING = ("init", "match", "budget_params")
"""Settings that a plan is decided by."""


@dataclass(frozen=True)
class Pinned:
    """A folder, and the digest of the files that are read of it; None where it was not looked at yet."""

    folder: Path
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """What `FOLDER` or `FOLDER@DIGEST` says."""
        found = PIN.fullmatch(text)
        return cls(Path(found[1]), found[2]) if found else cls(Path(text))

    def checked(self, content: str, what: str) -> str:
        """`FOLDER@DIGEST` with the digest of what it holds now.

        Raises:
            ConfigError: if it was pinned to something else.
        """
        if self.digest not in (None, content):
            raise ConfigError(
                "a folder holds something else than the recipe says",
                where=f"{what}: {self.folder}",
                expected=self.digest,
                got=content,
                do="bring the former content back, or leave `@DIGEST` out of the recipe",
            )
        return f"{self.folder}@{content}"


def pinned(recipe: Recipe) -> Recipe:
    """The recipe with every folder it starts from or measures pinned; one that names none as it is.

    Raises:
        ConfigError: if a folder is no folder of `farss init` for its method, holds neither an adapter nor a model, or
            was pinned to something else, or a name cannot be used.
        AdapterError: if an initialised adapter is missing.
    """
    if not (recipe.init_from or recipe.subjects):
        return recipe
    starts = {method: _pinned_start(recipe, method, Pinned.parse(text)) for method, text in recipe.init_from.items()}
    measured = {name: _pinned_subject(recipe, name, Pinned.parse(text)) for name, text in recipe.subjects.items()}
    return recipe.override({"init_from": starts, "subjects": measured})


def start_of(recipe: Recipe, method: str) -> Pinned | None:
    """The folder of `farss init` that a method starts from; None where the run plans it itself."""
    return Pinned.parse(recipe.init_from[method]) if method in recipe.init_from else None


def subjects_of(recipe: Recipe) -> Mapping[str, Pinned]:
    """The models trained elsewhere that a recipe has measured, by name."""
    return {name: Pinned.parse(text) for name, text in recipe.subjects.items()}


def differing_settings(recipe: Recipe, method: str) -> list[str]:
    """What differs in how the plan of the folder was decided and how the recipe would decide it, setting by setting."""
    start = start_of(recipe, method)
    if start is None:
        return []
    made, asked = recipe_of(start.folder).to_mapping(), recipe.to_mapping()
    return [line for key in DECIDING for line in differences(made[key], asked[key], key)]


def _pinned_start(recipe: Recipe, method: str, start: Pinned) -> str:
    if method not in recipe.methods or get_method(method).trains == "weights":
        raise ConfigError("a start is given for what is no adapter method of the recipe", where="init_from", got=method)
    recipe_of(start.folder)
    require_adapter(start.folder / ADAPTER)
    made = Plan.load(start.folder / PLAN).method
    if made != method:
        raise ConfigError(
            "the folder was initialised for another method",
            where=f"init_from: {start.folder}",
            expected=method,
            got=made,
        )
    return start.checked(_content(recipe, start.folder / ADAPTER), "init_from")


def _pinned_subject(recipe: Recipe, name: str, place: Pinned) -> str:
    if not NAME.fullmatch(name):
        raise ConfigError("a name must do as that of a folder", where="subjects", expected=NAME.pattern, got=name)
    if Subject.in_folder(place.folder) is None:
        raise ConfigError(
            "the folder holds neither an adapter nor a model", where=f"subjects: {name}", got=str(place.folder)
        )
    return place.checked(_content(recipe, place.folder), "subjects")


def _content(recipe: Recipe, folder: Path) -> str:
    return fetched_by(recipe).once("files", lambda: files_hash(folder), str(folder))
