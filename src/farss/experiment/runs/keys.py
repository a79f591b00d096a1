"""What each stage of a run depends on: the settings that change its result, and no others."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

from farss.config import TEMPLATES, DataConfig, EvalConfig, Recipe
from farss.datasets.formats import template_text
from farss.errors import ConfigError
from farss.experiment.initialisation.settling import settles
from farss.experiment.jobs import Job, jobs_of
from farss.experiment.pinned import Pinned, start_of, subjects_of
from farss.experiment.runs.passes import CURVATURE_FOLDER, DataPass, judged_of, named_folders, settling
from farss.experiment.stages import stage_key
from farss.methods import get_method, package_of_method
from farss.methods.owned import settings_of_method
from farss.methods.statistics import CURVATURE, LAYER_FISHER, OWN, statistics_of
from farss.settings import Settings
from farss.statistics.kinds import Statistic
from farss.statistics.summed import Summed

FRONTIER = {"frontier_scales", "frontier_rows"}
REPORTED = {"bootstrap"}
"""Settings that only the report uses; it is written anew by every call."""
LATER = {"turns", "columns", "subset", "split", "test", "test_split", "held_out", "on_bad_row", "date"}
LATER |= {"learn", "end_of_turn", "too_long", "mix", "calibration_order"}
"""Settings of the data that there were not always."""
LATER_ASKED = {"benchmarks", "backend"}
"""Settings of the measurement that there were not always."""
CALIBRATION = {"calibration_rows", "knowledge_calibration", "calibration_order"}
READ = (
    *("targets", "exclude", "tokens", "loss_norm", "fisher", "batch_tokens", "max_batches"),
    *("dtype", "seed", "compat"),
)
"""Settings of `init` that a pass over the data reads; the others are read where plans are made from it."""
REVISIONS: dict[str, int] = {}
"""The mathematics of the stages "statistics", "plans", "training" and "evaluation": raised by one where it changes, so
that what was computed before is not taken for what would be computed now. A stage that never changed is not named."""
READING_ALONE = (CURVATURE, LAYER_FISHER)
"""Statistics that read no further setting, so that the key of what all methods share stands for them."""
ASKED = ("knowledge", "knowledge_rows", "shots", "seed")
"""Settings that say which knowledge questions are asked, and so which are left to take statistics from."""


class Keys:
    """The keys of a recipe's stages.

    Args:
        recipe: of the run.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self._shared = recipe, _Parts(recipe)
        self.base, self.asked = self._shared.base, self._shared.asked

    @functools.cached_property
    def passes(self) -> list[DataPass]:
        """The passes over data that plans are made from, each for all the plans that can share it."""
        shared: dict[str, list[Job]] = {}
        for job in planned_jobs(self.recipe):
            if start_of(self.recipe, job.method) is not None:
                continue
            shared.setdefault(self._parts(job).evidence, []).append(job)
        passes = [self._pass(jobs[0].recipe(self.recipe), jobs) for jobs in shared.values()]
        return named_folders(passes or [self._pass(self.recipe, [])])

    def _pass(self, recipe: Recipe, jobs: Sequence[Job]) -> DataPass:
        parts = _Parts(recipe)
        judged = judged_of(recipe, self.recipe, jobs)
        # A fixed number of rows is read whatever is planned from them.
        decides = [recipe.init.route, [settling(config) for config in judged]] if settles(recipe) else []
        known = OWN | statistics_of([get_method(job.method) for job in jobs])
        keys = {name: parts.gathered(one, parts.read) for name, one in known.items()}
        revised = _revisions("plans") if decides else []
        keys[CURVATURE.name] = stage_key(CURVATURE_FOLDER, parts.read, *decides, *revised)
        return DataPass(recipe, tuple(jobs), judged, keys, {})

    @property
    def plans(self) -> str:
        """Of all plans."""
        shared, varied = self._shared, [job for job in planned_jobs(self.recipe) if job.overrides]
        starts = sorted((name, Pinned.parse(text).digest) for name, text in self.recipe.init_from.items())
        given = [starts] if starts else []
        plain = stage_key(shared.start, sorted(self.recipe.methods), *shared.of_methods(), *shared.budget, *given)
        if not varied:
            return plain
        own = [[job.plan_name, self._start(job), *self._parts(job).own(job.method)] for job in varied]
        return stage_key(plain, own, [self._parts(job).budget for job in varied])

    def training(self, job: Job) -> str:
        """Of a job's training: an adapter depends on its plan, and so on the statistics."""
        parts, recipe = self._parts(job), job.recipe(self.recipe)
        config = dataclasses.replace(recipe.train, learning_rate=job.learning_rate, seed=job.seed).decisive()
        start, budget = (self._start(job), parts.budget) if job.adapts else (None, [])
        own = [*parts.own(job.method), *budget, *parts.division, *_revisions("training")]
        return stage_key(parts.model, parts.rows, start, config, job.method, *own)

    def evaluation(self, job: Job) -> str:
        """Of a job's measurement."""
        return stage_key(self.training(job), self.asked, *_revisions("evaluation"))

    def subjects(self) -> dict[str, str]:
        """Of the measurements of models that were trained elsewhere, by name."""
        found = subjects_of(self.recipe)
        return {name: stage_key(self.base, self.asked, "subject", one.digest) for name, one in found.items()}

    def check_comparable(self) -> None:
        """Check that all jobs are asked the same questions, and that every variant is another training.

        Raises:
            ConfigError: naming the variant that is not.
        """
        trainings: dict[str, Job] = {}
        for job in jobs_of(self.recipe):
            if self._parts(job).base != self.base:
                raise ConfigError(
                    "a variant is measured on other rows than the base, so the two cannot be compared",
                    where=f"vary: {job.series}",
                    do="vary settings of the rows that are learned alone, such as data.train_rows",
                )
            other = trainings.setdefault(self.training(job), job)
            if other is not job:
                raise ConfigError(
                    "two variants are the same training", where=f"vary: {job.series}", expected=f"not {other.series}"
                )

    def _parts(self, job: Job) -> _Parts:
        return _Parts(job.recipe(self.recipe)) if job.overrides else self._shared

    def _start(self, job: Job) -> object:
        """What a job's plan depends on: its settings, and what else decides how many rows are read for it."""
        own, given = self._parts(job).start, start_of(self.recipe, job.method)
        if given is not None:
            return ["init_from", given.digest]
        if "curvature" not in get_method(job.method).needs:
            return own
        judged = next((one.judged for one in self.passes if one.serves(job)), ())
        return own if len(judged) < 2 else [own, [settling(config) for config in judged]]


class _Parts:
    """What the stages of one recipe read, in parts."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        data = _without_defaults(recipe.data.to_mapping(), DataConfig(), LATER)
        asked = _without_defaults(recipe.eval.to_mapping(), EvalConfig(), LATER_ASKED)
        if recipe.data.template not in TEMPLATES:
            data["template"] = template_text(recipe.data.template)  # what the file says, wherever it is
        self.model = recipe.model.to_mapping()
        self.rows = _without(data, CALIBRATION)
        self.asked = _without(asked, REPORTED)
        self._questions = [data["knowledge_calibration"], *(asked[name] for name in ASKED)]
        held_out = _without(data, CALIBRATION | {"train_rows", "seed"})
        self.base = stage_key(self.model, held_out, _without(self.asked, FRONTIER), *_revisions("evaluation"))
        # Nothing stands for a setting that is not used, so that a recipe without it keeps its keys.
        self.division = [] if recipe.select == "none" else [recipe.select, recipe.validation_rows]
        self.budget = [] if recipe.match == "rank" else [recipe.match, recipe.budget_params]
        init = recipe.init.shared()
        rows = _without(data, {"knowledge_calibration"})
        planned = [init, *self.division]
        self.start = stage_key(self.model, rows, *planned, *_revisions("statistics", "plans"))
        read = [{name: init[name] for name in READ}, *self.division]
        self.read = stage_key(self.model, rows, *read, *_revisions("statistics"))
        # Decompositions are not read by a pass, but plans of one pass share them.
        taken = OWN | statistics_of([get_method(method) for method in recipe.methods])
        gathered = (self.gathered(one, self.read) for one in taken.values())
        self.evidence = stage_key(self.read, recipe.init.route, *gathered)

    def gathered(self, statistic: Statistic[Summed], read: str) -> str:
        """Of a pass for a statistic, for which `read` stands for rows and settings."""
        questions = self._questions if statistic.data == "knowledge" else None
        return stage_key(read, statistic.name, statistic.reads(self.recipe.init), questions)

    def own(self, method: str) -> list[object]:
        """What a method depends on beside model, data and the settings all methods share."""
        package = package_of_method(method)
        return [*self._settings_of(method), *([package] if package else [])]

    def of_methods(self) -> list[object]:
        """What each of the recipe's methods depends on of its own."""
        return [part for method in sorted(self.recipe.methods) for part in self.own(method)]

    def _settings_of(self, method: str) -> list[object]:
        found = get_method(method)
        own: list[object] = [self.recipe.init.of(kind).to_mapping() for kind in settings_of_method(found)]
        needed = statistics_of([found]).values()
        return [*own, *(self.gathered(one, self.start) for one in needed if one not in READING_ALONE)]


def _revisions(*stages: str) -> list[object]:
    """What stands in a key for the mathematics of these stages; nothing where it never changed."""
    found = {stage: REVISIONS[stage] for stage in stages if stage in REVISIONS}
    return [{"revisions": found}] if found else []


def planned_jobs(recipe: Recipe) -> list[Job]:
    """One job for every plan: its learning rate and seed do not matter."""
    return list({job.plan_name: job for job in reversed(jobs_of(recipe)) if job.adapts}.values())[::-1]


def _without_defaults(settings: dict[str, object], usual: Settings, later: set[str]) -> dict[str, object]:
    """Settings; later ones only where they are used, so that a recipe without them keeps its keys."""
    defaults = usual.to_mapping()
    return {name: value for name, value in settings.items() if name not in later or value != defaults[name]}


def later_settings(data: DataConfig) -> dict[str, object]:
    """The settings of the data that there were not always and that are used, without those of calibration."""
    usual = DataConfig().to_mapping()
    names = LATER - CALIBRATION
    return {name: value for name, value in data.to_mapping().items() if name in names and value != usual[name]}


def _without(mapping: dict[str, object], names: set[str]) -> dict[str, object]:
    return {key: value for key, value in mapping.items() if key not in names}
