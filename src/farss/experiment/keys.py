"""What each stage of a run depends on: the settings that change its result, and no others."""

from __future__ import annotations

import dataclasses

from farss.config import Recipe
from farss.experiment.jobs import Job
from farss.experiment.stages import stage_key
from farss.methods import get_method

FRONTIER = {"frontier_scales", "frontier_rows"}
REPORTED = {"bootstrap"}
"""Settings that only the report uses; it is written anew by every call."""
OWN_SETTINGS = {"fora"}
"""Groups of `init` that only the method of the same name reads."""


class Keys:
    """The keys of a recipe's stages.

    Args:
        recipe: of the run.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        data, asked = recipe.data.to_mapping(), recipe.eval.to_mapping()
        self._model = recipe.model.to_mapping()
        self._rows = _without(data, {"calibration_rows"})
        self._asked = _without(asked, REPORTED)
        held_out = _without(data, {"calibration_rows", "train_rows", "seed"})
        self.base = stage_key(self._model, held_out, _without(self._asked, FRONTIER))
        self.statistics = stage_key(self._model, data, _without(recipe.init.to_mapping(), OWN_SETTINGS))
        own = [settings for method in sorted(recipe.methods) for settings in self._own(method)]
        self.plans = stage_key(self.statistics, sorted(recipe.methods), *own)

    def training(self, job: Job) -> str:
        """Of a job's training: an adapter depends on its plan, and so on the statistics."""
        config = dataclasses.replace(self.recipe.train, learning_rate=job.learning_rate, seed=job.seed)
        start = self.statistics if get_method(job.method).trains == "adapter" else None
        return stage_key(self._model, self._rows, start, config.to_mapping(), job.method, *self._own(job.method))

    def evaluation(self, job: Job) -> str:
        """Of a job's measurement."""
        return stage_key(self.training(job), self._asked)

    def _own(self, method: str) -> list[dict[str, object]]:
        """The settings that only this method reads."""
        return [self.recipe.init.to_mapping()[method]] if method in OWN_SETTINGS else []


def _without(mapping: dict[str, object], names: set[str]) -> dict[str, object]:
    return {key: value for key, value in mapping.items() if key not in names}
