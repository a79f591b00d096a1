"""What a recipe asks for, spelled out: one job per method, variant of its settings, learning rate and seed."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from farss.config import Recipe
from farss.errors import ConfigError
from farss.methods import get_method
from farss.methods.aids import aids_of_methods
from farss.training.readiness import check_training

VARIED = ("data", "init", "train", "match", "budget_params")
"""Parts of a recipe that may differ between its jobs; the model and the questions are what makes them comparable."""
LISTED = {"train.learning_rate": "learning_rates or method_learning_rates", "train.seed": "seeds or method_seeds"}
"""Settings that have lists of their own."""
BESIDE_PLAN = ("data", "train")
"""Parts of a recipe that a training reads beside its plan."""
LONGEST_SLUG = 60
"""Characters of a variant in a folder's name; what is longer is told apart by a hash."""

Override = tuple[str, Any]
"""A dotted key of the recipe, and its value."""


@dataclass(frozen=True)
class Job:
    """One fine-tuning run.

    Attributes:
        method: registry name.
        learning_rate: peak learning rate.
        seed: of the adapter's random numbers, the data order and dropout.
        overrides: what its recipe has beside the run's; empty but for a method that the recipe varies.
    """

    method: str
    learning_rate: float
    seed: int
    overrides: tuple[Override, ...] = ()

    @property
    def variant(self) -> str:
        """What it has beside the run's recipe, in words: "rank 16, shallow_layers 2"."""
        return ", ".join(f"{key.rpartition('.')[2]} {_said(value)}" for key, value in self.overrides)

    @property
    def series(self) -> str:
        """Method and variant: what has a place of its own in comparisons."""
        return f"{self.method} {self.variant}".rstrip()

    @property
    def plan_name(self) -> str:
        """A file name that says method and variant."""
        if not self.overrides:
            return self.method
        parts = (f"{key.rpartition('.')[2]}{_said(value)}" for key, value in self.overrides)
        slug = "-".join(re.sub(r"[^A-Za-z0-9._]+", "_", part) for part in parts)
        if len(slug) > LONGEST_SLUG:
            slug = hashlib.sha256(self.variant.encode()).hexdigest()[:16]
        return f"{self.method}-{slug}"

    @property
    def id(self) -> str:
        """A folder name that says all of it."""
        return f"{self.plan_name}-lr{self.learning_rate:g}-seed{self.seed}"

    @property
    def adapts(self) -> bool:
        """Whether an adapter is trained, which takes a plan, and not the weights themselves."""
        return get_method(self.method).trains == "adapter"

    def recipe(self, recipe: Recipe) -> Recipe:
        """The recipe of a run as this job reads it."""
        return recipe.override(dict(self.overrides)) if self.overrides else recipe


def jobs_of(recipe: Recipe) -> list[Job]:
    """The recipe's jobs, full fine-tuning first since it is the measure of the task gained.

    Raises:
        ConfigError: if a method is unknown, methods, learning rates or seeds are empty or repeated, or what is varied
            is no list of settings that may vary.
    """
    for key in ("methods", "learning_rates", "seeds"):
        values = getattr(recipe, key)
        if not values or len(set(values)) != len(values):
            raise ConfigError("at least one value is needed, each once", where=key, got=list(values))
    for name, rates in recipe.method_learning_rates.items():
        get_method(name)
        if not rates or len(set(rates)) != len(rates) or min(rates) <= 0:
            place = f"method_learning_rates.{name}"
            raise ConfigError("at least one positive value is needed, each once", where=place, got=list(rates))
    for name, seeds in recipe.method_seeds.items():
        get_method(name)
        if not seeds or len(set(seeds)) != len(seeds):
            raise ConfigError("at least one value is needed, each once", where=f"method_seeds.{name}", got=list(seeds))
    for name in recipe.vary:
        get_method(name)
        if name not in recipe.methods:
            raise ConfigError("a method is varied that is not among the methods", where="vary", got=name)
    names = sorted(recipe.methods, key=lambda name: get_method(name).trains != "weights")
    return [
        Job(name, rate, seed, overrides)
        for name in names
        for overrides in variants_of(recipe, name)
        for rate in learning_rates_of(recipe, name)
        for seed in recipe.method_seeds.get(name, recipe.seeds)
    ]


def variants_of(recipe: Recipe, method: str) -> list[tuple[Override, ...]]:
    """All combinations of what the recipe varies of a method, the last list turning fastest; one empty one if nothing.

    Raises:
        ConfigError: naming what is no list of different values, or no setting that may vary.
    """
    lists = list(_lists(recipe.vary.get(method, {}), ()))
    for key, _ in lists:
        if key in LISTED:
            do = f"use {LISTED[key]}"
            raise ConfigError("a setting that has a list of its own is varied", where="vary", got=key, do=do)
    keys = [key for key, _ in lists]
    return [tuple(zip(keys, chosen, strict=True)) for chosen in itertools.product(*(values for _, values in lists))]


def _lists(tree: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, list[Any]]]:
    """Dotted key and values of every leaf."""
    for name, node in tree.items():
        here = (*path, str(name))
        if here[0] not in VARIED:
            raise ConfigError(
                "this part of a recipe is the same for all its jobs",
                where=f"vary: {here[0]}",
                expected=" | ".join(VARIED),
                do="give jobs that differ in it a recipe each, and put the runs together with `farss compare`",
            )
        if isinstance(node, dict) and node:
            yield from _lists(node, here)
        elif isinstance(node, list) and node and all(node.count(value) == 1 for value in node):
            yield ".".join(here), [tuple(value) if isinstance(value, list) else value for value in node]
        else:
            raise ConfigError(
                "a list of different values is needed",
                where=f"vary: {'.'.join(here)}",
                expected="[...]",
                got=repr(node),
            )


def learning_rates_of(recipe: Recipe, method: str) -> tuple[float, ...]:
    """A method's own learning rates, else the recipe's.

    Those of full fine-tuning are `full_learning_rates`, where there are some: an adapter's would destroy it.
    """
    if method in recipe.method_learning_rates:
        return recipe.method_learning_rates[method]
    if get_method(method).trains == "weights" and recipe.full_learning_rates:
        return recipe.full_learning_rates
    return recipe.learning_rates


def methods_needing(recipe: Recipe, evidence: str) -> list[str]:
    """The recipe's methods that need "spectrum", "curvature" or further statistics of this name."""
    return [name for name in recipe.methods if evidence in get_method(name).needs]


def validate(recipe: Recipe) -> None:
    """Check everything that can be checked before a model is loaded.

    Raises:
        ConfigError: naming the setting.
    """
    for one in recipes_of(recipe):
        check_training(one.train, aids_of_methods(recipe.methods))
    _check_given(recipe)
    if not recipe.eval.knowledge:
        raise ConfigError("at least one knowledge set is needed to measure forgetting", where="eval.knowledge")
    if any(scale < 0 for scale in recipe.eval.frontier_scales):
        raise ConfigError("frontier scales cannot be negative", where="eval.frontier_scales")


def _check_given(recipe: Recipe) -> None:
    """Refuse to vary what decides a plan of a method that starts from one; raises ConfigError."""
    for job in jobs_of(recipe):
        varied = [key for key, _ in job.overrides if key.partition(".")[0] not in BESIDE_PLAN]
        if varied and job.method in recipe.init_from:
            raise ConfigError(
                "a method that starts from a folder is planned already, so what decides its plan cannot vary",
                where=f"vary: {job.method}",
                got=", ".join(varied),
                do="leave it out of init_from",
            )


def recipes_of(recipe: Recipe) -> list[Recipe]:
    """The different recipes of its jobs, that of the run first where a job has it.

    Raises:
        ConfigError: as `jobs_of`, and if a variant has an unknown key or a value of the wrong type.
    """
    found = {job.variant: job for job in jobs_of(recipe)}
    return [found[variant].recipe(recipe) for variant in sorted(found, key=bool)]


def refuse_variants(recipe: Recipe, verb: str) -> None:
    """Refuse a recipe that varies its methods or takes them from elsewhere, for a verb that does neither.

    Raises:
        ConfigError: if it does.
    """
    if recipe.vary:
        raise ConfigError(f"`{verb}` does not vary the settings of a method", where="vary", got=", ".join(recipe.vary))
    if recipe.init_from or recipe.subjects:
        raise ConfigError(f"`{verb}` reads no folders of others", where="init_from, subjects", do="use `farss run`")


def _said(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
