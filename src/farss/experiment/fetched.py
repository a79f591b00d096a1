"""A recipe with what it names, fetched once for everybody in a process who asks by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Self, TypeVar

from farss.config import Recipe
from farss.datasets.resolve import load_rows

Found = TypeVar("Found")
NAMING = ("data", "eval", "select", "validation_rows")
"""The parts of a recipe that say, beside its model, which rows are used and how they become tokens."""


class Fetched:
    """What was fetched, by what it was fetched by; whoever gets something must not change it.

    It stays in its process: where it is pickled, an empty one arrives.
    """

    def __init__(self) -> None:
        self._found: dict[str, Any] = {}

    def once(self, what: str, fetch: Callable[[], Found], *by: object) -> Found:
        """What `fetch` returns, which is called when `what` is asked for `by` these for the first time."""
        key = json.dumps([what, *by], sort_keys=True, default=str)
        if key not in self._found:
            self._found[key] = fetch()
        return self._found[key]

    def rows(self, name: str, split: str, **where: Any) -> list[dict[str, Any]]:
        """As `farss.datasets.load_rows`."""
        return self.once("rows", lambda: load_rows(name, split, **where), name, split, where)

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        return type(self), ()


class Inputs(Recipe):
    """A recipe that remembers what was fetched by it, and by those that were overridden from it.

    A verb makes one of its recipe and hands it on in the recipe's place; files are taken to stay as they are meanwhile.
    """

    fetched: Fetched

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "fetched", Fetched())

    @classmethod
    def of(cls, recipe: Recipe) -> Inputs:
        """The recipe, remembering; one that does already is itself."""
        return recipe if isinstance(recipe, Inputs) else cls(**vars(recipe))

    def override(self, assignments: dict[str, Any]) -> Self:
        """As of any recipe; what the two have in common is fetched once for both."""
        made = super().override(assignments)
        object.__setattr__(made, "fetched", self.fetched)
        return made


def fetched_by(recipe: Recipe) -> Fetched:
    """What was fetched by a recipe: nothing, unless it remembers."""
    return recipe.fetched if isinstance(recipe, Inputs) else Fetched()


def once(recipe: Recipe, what: str, fetch: Callable[[], Found], *by: object) -> Found:
    """What `fetch` makes of the model and rows that a recipe names, made once for all recipes that name the same."""
    tree, model = recipe.to_mapping(), [recipe.model.name, recipe.model.revision, recipe.model.trust_remote_code]
    return fetched_by(recipe).once(what, fetch, model, [tree[name] for name in NAMING], *by)
