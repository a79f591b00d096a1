"""What a recipe asks for, spelled out: one job per method, learning rate and seed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from farss.config import Recipe
from farss.errors import ConfigError
from farss.methods import get_method
from farss.training.readiness import check_training


@dataclass(frozen=True)
class Job:
    """One fine-tuning run.

    Attributes:
        method: registry name.
        learning_rate: peak learning rate.
        seed: of the adapter's random numbers, the data order and dropout.
    """

    method: str
    learning_rate: float
    seed: int

    @property
    def id(self) -> str:
        """A folder name that says all three."""
        return f"{self.method}-lr{self.learning_rate:g}-seed{self.seed}"

    @property
    def adapts(self) -> bool:
        """Whether an adapter is trained, which takes a plan, and not the weights themselves."""
        return get_method(self.method).trains == "adapter"

    def to_mapping(self) -> dict[str, Any]:
        """The job as a dictionary."""
        return asdict(self)


def jobs_of(recipe: Recipe) -> list[Job]:
    """The recipe's jobs, full fine-tuning first since it is the measure of the task gained.

    Raises:
        ConfigError: if a method is unknown, or methods, learning rates or seeds are empty or repeated.
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
    names = sorted(recipe.methods, key=lambda name: get_method(name).trains != "weights")
    return [
        Job(name, rate, seed)
        for name in names
        for rate in learning_rates_of(recipe, name)
        for seed in recipe.method_seeds.get(name, recipe.seeds)
    ]


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
    jobs_of(recipe)
    check_training(recipe.train, recipe.methods)
    if not recipe.eval.knowledge:
        raise ConfigError("at least one knowledge set is needed to measure forgetting", where="eval.knowledge")
    if any(scale < 0 for scale in recipe.eval.frontier_scales):
        raise ConfigError("frontier scales cannot be negative", where="eval.frontier_scales")
