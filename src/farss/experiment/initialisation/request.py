"""What an initialisation was asked for, and what of it has to be taken of data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel

from farss.adapters.files import save_adapter
from farss.config import FarssConfig, Recipe
from farss.errors import ConfigError
from farss.experiment.initialisation.crew import Crew
from farss.experiment.initialisation.planning import resolved
from farss.experiment.initialisation.statistics import statistics_in
from farss.experiment.steps import RECIPE
from farss.methods import get_method
from farss.methods.statistics import statistics_of
from farss.model.plan import Plan
from farss.statistics.kinds import DataName, Statistic
from farss.statistics.summed import Summed


def given_statistics(path: str | Path, method: str) -> dict[str, Path]:
    """The files of statistics that a method is planned from.

    Raises:
        ConfigError: if there is none among them.
    """
    found, needed = statistics_in(path), statistics_of([get_method(method)])
    if not found.keys() & needed.keys():
        raise ConfigError(
            "the statistics are not those that the method is planned from",
            where=path,
            expected=", ".join(needed) or "none",
            got=", ".join(found),
            do=f"take them with `farss init --method {method} --shard`, or leave --stats out",
        )
    return {name: file for name, file in found.items() if name in needed}


@dataclass(frozen=True)
class Request:
    """What an initialisation was asked for.

    Attributes:
        recipe: model, data and settings, the arithmetic spelled out.
        asked: the same as it was asked for, which is kept beside the adapter.
        method: registry name.
        out: the folder to make.
        given: a plan to obey, or None to decide one.
        work: what an interrupted call keeps.
        hands: this process among those that work on the request.
        statistics: files of statistics that are not taken of the data, by name.
    """

    recipe: Recipe
    asked: Recipe
    method: str
    out: Path
    given: Plan | None
    work: Path
    hands: Crew
    statistics: dict[str, Path]

    @property
    def config(self) -> FarssConfig:
        """The init settings with `compat` spelled out."""
        return resolved(self.recipe.init)

    @property
    def needed(self) -> dict[str, Statistic[Summed]]:
        """The statistics that the plan is made from, by name."""
        return {} if self.given is not None else statistics_of([get_method(self.method)])

    @property
    def to_take(self) -> dict[str, Statistic[Summed]]:
        """Those that have to be taken of data here: what the method needs and was not given."""
        return {name: one for name, one in self.needed.items() if name not in self.statistics}

    @property
    def data_sets(self) -> list[DataName]:
        """The data sets that are read for them."""
        return list(dict.fromkeys(one.data for one in self.to_take.values()))

    def finish(self, plan: Plan, model: PeftModel, folder: Path) -> None:
        """Write what both engines leave."""
        save_adapter(model, folder / "adapter")
        plan.save(folder / "plan.json")
        (folder / RECIPE).write_text(self.asked.to_yaml(), encoding="utf-8")
