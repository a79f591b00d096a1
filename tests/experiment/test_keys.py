"""A stage's key changes with the settings its result depends on, and with no others."""

from __future__ import annotations

import pytest

from farss.config import Recipe
from farss.experiment.jobs import Job
from farss.experiment.keys import Keys
from farss.methods.base import STATISTICS

FULL, LORA, CORDA, EVA = (Job(name, 1e-4, 0) for name in ("full", "lora", "corda-kpm", "eva"))


def keys_of(recipe: Recipe) -> dict[str, str]:
    keys = Keys(recipe)
    named = {"base": keys.base, "statistics": keys.statistics, "plans": keys.plans}
    named |= {kind: keys.gathered(kind) for kind in STATISTICS}
    for job in (FULL, LORA, CORDA, EVA):
        named |= {f"{job.method} train": keys.training(job), f"{job.method} eval": keys.evaluation(job)}
    return named


EVERYTHING = set(keys_of(Recipe()))
JOBS = ("full", "lora", "corda-kpm", "eva")
TRAINED = {f"{name} {stage}" for name in JOBS for stage in ("train", "eval")}
MEASURED = {f"{name} eval" for name in JOBS}
INITIALISED = {"statistics", "plans", *STATISTICS, *TRAINED} - {"full train", "full eval"}
ON_KNOWLEDGE = {"knowledge_covariance", "corda-kpm train", "corda-kpm eval"}
ON_OWN_FACTORS = {"corda-kpm train", "corda-kpm eval", "eva train", "eva eval"}


@pytest.mark.parametrize(
    ("setting", "value", "redone"),
    [
        ("model.name", "other", EVERYTHING),
        ("data.task", "other", EVERYTHING),
        ("data.train_rows", 10, EVERYTHING - {"base"}),
        ("data.calibration_rows", 10, INITIALISED),
        ("data.knowledge_calibration", "other", ON_KNOWLEDGE),
        ("init.rank", 3, INITIALISED),
        ("init.fora.rho", 0.25, set()),
        ("init.kasa.beta", 0.25, set()),
        ("init.adalora.beta1", 0.25, set()),
        ("init.start.rank_ratio", 1.0, ON_OWN_FACTORS),
        ("init.start.covariance_scale", "signed_maximum", {*STATISTICS, *ON_OWN_FACTORS} - {"gradient"}),
        ("methods", ["lora"], {"plans"}),
        ("train.epochs", 2.0, TRAINED),
        ("train.learning_rate", 1.0, set()),
        ("eval.shots", 1, {"base", *MEASURED, *ON_KNOWLEDGE}),
        ("eval.frontier_scales", [0.0, 1.0], MEASURED),
        ("eval.bootstrap", 9, set()),
        ("name", "other", set()),
        ("out", "elsewhere", set()),
    ],
)
def test_what_a_setting_redoes(setting, value, redone):
    before, after = keys_of(Recipe()), keys_of(Recipe().override({setting: value}))
    assert {stage for stage in before if before[stage] != after[stage]} == redone


@pytest.mark.parametrize(("method", "setting"), [("fora", "rho"), ("kasa", "beta"), ("adalora", "beta1")])
def test_settings_of_one_method_redo_that_method_only(method, setting):
    job = Job(method, 1e-4, 0)
    before = Recipe(methods=("full", "lora", method))
    after = before.override({f"init.{method}.{setting}": 0.25})
    assert keys_of(before)["plans"] != keys_of(after)["plans"]
    assert {key: value for key, value in keys_of(before).items() if key != "plans"} == {
        key: value for key, value in keys_of(after).items() if key != "plans"
    }
    assert Keys(before).training(job) != Keys(after).training(job)


@pytest.mark.parametrize(("setting", "value"), [("data.knowledge_calibration", "other"), ("init.start.gamma", 9.0)])
@pytest.mark.parametrize(("methods", "redone"), [(["farss"], set()), (["farss", "corda-kpm"], {"plans"})])
def test_plans_depend_on_what_their_methods_read(setting, value, methods, redone):
    recipe = Recipe().override({"methods": methods})
    before, after = Keys(recipe), Keys(recipe.override({setting: value}))
    assert {"plans" for _ in [0] if before.plans != after.plans} == redone
    assert before.statistics == after.statistics
