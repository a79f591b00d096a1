"""A stage's key changes with the settings its result depends on, and with no others."""

from __future__ import annotations

import pytest

from farss.config import Recipe
from farss.experiment.jobs import Job
from farss.experiment.keys import Keys

FULL, LORA = Job("full", 1e-4, 0), Job("lora", 1e-4, 0)


def keys_of(recipe: Recipe) -> dict[str, str]:
    keys = Keys(recipe)
    named = {"base": keys.base, "statistics": keys.statistics, "plans": keys.plans}
    for job in (FULL, LORA):
        named |= {f"{job.method} train": keys.training(job), f"{job.method} eval": keys.evaluation(job)}
    return named


EVERYTHING = set(keys_of(Recipe()))
TRAINED = {"full train", "full eval", "lora train", "lora eval"}


@pytest.mark.parametrize(
    ("setting", "value", "redone"),
    [
        ("model.name", "other", EVERYTHING),
        ("data.task", "other", EVERYTHING),
        ("data.train_rows", 10, EVERYTHING - {"base"}),
        ("data.calibration_rows", 10, {"statistics", "plans", "lora train", "lora eval"}),
        ("init.rank", 3, {"statistics", "plans", "lora train", "lora eval"}),
        ("init.fora.rho", 0.25, set()),
        ("methods", ["lora"], {"plans"}),
        ("train.epochs", 2.0, TRAINED),
        ("train.learning_rate", 1.0, set()),
        ("eval.shots", 1, {"base", "full eval", "lora eval"}),
        ("eval.frontier_scales", [0.0, 1.0], {"full eval", "lora eval"}),
        ("eval.bootstrap", 9, set()),
        ("name", "other", set()),
        ("out", "elsewhere", set()),
    ],
)
def test_what_a_setting_redoes(setting, value, redone):
    before, after = keys_of(Recipe()), keys_of(Recipe().override({setting: value}))
    assert {stage for stage in before if before[stage] != after[stage]} == redone


def test_settings_of_one_method_redo_that_method_only():
    job = Job("fora", 1e-4, 0)
    before = Recipe(methods=("full", "lora", "fora"))
    after = before.override({"init.fora.rho": 0.25})
    assert keys_of(before)["plans"] != keys_of(after)["plans"]
    assert {key: value for key, value in keys_of(before).items() if key != "plans"} == {
        key: value for key, value in keys_of(after).items() if key != "plans"
    }
    assert Keys(before).training(job) != Keys(after).training(job)
