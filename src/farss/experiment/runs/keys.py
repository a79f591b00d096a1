"""What each stage of a run depends on: the settings that change its result, and no others."""

from __future__ import annotations

import dataclasses

from farss.config import TEMPLATES, DataConfig, Recipe
from farss.datasets.formats import template_text
from farss.experiment.jobs import Job
from farss.experiment.stages import stage_key
from farss.methods import get_method, package_of_method
from farss.methods.base import KNOWLEDGE, STATISTICS
from farss.methods.factored import FactorMethod

FRONTIER = {"frontier_scales", "frontier_rows"}
REPORTED = {"bootstrap"}
"""Settings that only the report uses; it is written anew by every call."""
OWN_SETTINGS = {"fora", "kasa", "adalora"}
"""Groups of `init` that only the method of the same name reads."""
LATER = {"turns", "columns", "subset", "split", "test", "test_split", "held_out", "on_bad_row", "date"}
LATER |= {"learn", "end_of_turn", "too_long", "mix", "calibration_order"}
"""Settings of the data that there were not always."""
CALIBRATION = {"calibration_rows", "knowledge_calibration", "calibration_order"}
ASKED = ("knowledge", "knowledge_rows", "shots", "seed")
"""Settings that say which knowledge questions are asked, and so which are left to take statistics from."""


class Keys:
    """The keys of a recipe's stages.

    Args:
        recipe: of the run.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        data, asked = _without_defaults(recipe.data.to_mapping()), recipe.eval.to_mapping()
        if recipe.data.template not in TEMPLATES:
            data["template"] = template_text(recipe.data.template)  # what the file says, wherever it is
        self._model = recipe.model.to_mapping()
        self._rows = _without(data, CALIBRATION)
        self._asked = _without(asked, REPORTED)
        self._questions = [data["knowledge_calibration"], *(asked[name] for name in ASKED)]
        self._start = recipe.init.start.to_mapping()
        held_out = _without(data, CALIBRATION | {"train_rows", "seed"})
        self.base = stage_key(self._model, held_out, _without(self._asked, FRONTIER))
        # Nothing stands for a setting that is not used, so that a recipe without it keeps its keys.
        self._division = [] if recipe.select == "none" else [recipe.select, recipe.validation_rows]
        init = _without(recipe.init.to_mapping(), OWN_SETTINGS | {"start"})
        self.statistics = stage_key(self._model, _without(data, {"knowledge_calibration"}), init, *self._division)
        self._budget = [] if recipe.match == "rank" else [recipe.match, recipe.budget_params]
        own = [part for method in sorted(recipe.methods) for part in self._own(method)]
        self.plans = stage_key(self.statistics, sorted(recipe.methods), *own, *self._budget)

    def gathered(self, kind: str) -> str:
        """Of a pass for statistics beside the curvature."""
        scale = None if kind == "gradient" else self._start["covariance_scale"]
        questions = self._questions if kind == KNOWLEDGE else None
        return stage_key(self.statistics, kind, scale, questions)

    def training(self, job: Job) -> str:
        """Of a job's training: an adapter depends on its plan, and so on the statistics."""
        config = dataclasses.replace(self.recipe.train, learning_rate=job.learning_rate, seed=job.seed)
        adapter = get_method(job.method).trains == "adapter"
        start, budget = (self.statistics, self._budget) if adapter else (None, [])
        return stage_key(
            self._model,
            self._rows,
            start,
            config.decisive(),
            job.method,
            *self._own(job.method),
            *budget,
            *self._division,
        )

    def evaluation(self, job: Job) -> str:
        """Of a job's measurement."""
        return stage_key(self.training(job), self._asked)

    def _own(self, method: str) -> list[object]:
        """What a method depends on beside model, data and the settings all methods share."""
        package = package_of_method(method)
        return [*self._settings_of(method), *([package] if package else [])]

    def _settings_of(self, method: str) -> list[object]:
        if method in OWN_SETTINGS:
            return [self.recipe.init.to_mapping()[method]]
        if isinstance(get_method(method), FactorMethod):
            needs = get_method(method).needs
            return [self._start, *(self.gathered(kind) for kind in STATISTICS if kind in needs)]
        return []


def _without_defaults(data: dict[str, object]) -> dict[str, object]:
    """The data settings; later ones only where they are used, so that a recipe without them keeps its keys."""
    usual = DataConfig().to_mapping()
    return {name: value for name, value in data.items() if name not in LATER or value != usual[name]}


def later_settings(data: DataConfig) -> dict[str, object]:
    """The settings of the data that there were not always and that are used, without those of calibration."""
    usual = DataConfig().to_mapping()
    names = LATER - CALIBRATION
    return {name: value for name, value in data.to_mapping().items() if name in names and value != usual[name]}


def _without(mapping: dict[str, object], names: set[str]) -> dict[str, object]:
    return {key: value for key, value in mapping.items() if key not in names}
