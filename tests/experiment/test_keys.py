"""A stage's key changes with the settings its result depends on, and with no others."""

from __future__ import annotations

import pytest

from farss.config import Recipe
from farss.experiment.jobs import Job, jobs_of
from farss.experiment.runs import keys as keys_module
from farss.experiment.runs.keys import Keys
from farss.experiment.runs.recipes import shipped_recipes

FULL, LORA, CORDA, EVA = (Job(name, 1e-4, 0) for name in ("full", "lora", "corda-kpm", "eva"))


def keys_of(recipe: Recipe) -> dict[str, str]:
    keys = Keys(recipe)
    named = {"base": keys.base, **keys.passes[0].keys, "plans": keys.plans}
    for job in (FULL, LORA, CORDA, EVA):
        named |= {f"{job.method} train": keys.training(job), f"{job.method} eval": keys.evaluation(job)}
    return named


STATISTICS = ("input_covariance", "knowledge_covariance", "gradient", "layer_fisher")
EVERYTHING = set(keys_of(Recipe()))
JOBS = ("full", "lora", "corda-kpm", "eva")
TRAINED = {f"{name} {stage}" for name in JOBS for stage in ("train", "eval")}
MEASURED = {f"{name} eval" for name in JOBS}
INITIALISED = {"curvature", "plans", *STATISTICS, *TRAINED} - {"full train", "full eval"}
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
        ("init.rank", 3, INITIALISED - set(STATISTICS)),
        ("init.shallow_layers", 3, INITIALISED - set(STATISTICS)),
        ("init.scale", "rslora", INITIALISED - {"curvature", *STATISTICS}),
        ("init.base", "residual", INITIALISED - {"curvature", *STATISTICS}),
        ("init.selection", "low", INITIALISED - {"curvature", *STATISTICS}),
        ("init.tokens", "all", INITIALISED),
        ("init.exclude", ["lm_head"], INITIALISED),
        ("init.fora.rho", 0.25, set()),
        ("init.kasa.beta", 0.25, set()),
        ("init.adalora.beta1", 0.25, set()),
        ("init.start.rank_ratio", 1.0, ON_OWN_FACTORS),
        (
            "init.start.covariance_scale",
            "signed_maximum",
            {*STATISTICS, *ON_OWN_FACTORS} - {"gradient", "layer_fisher"},
        ),
        ("methods", ["lora"], {"plans"}),
        ("match", "params", {"plans", *TRAINED} - {"full train", "full eval"}),
        ("select", "validation", EVERYTHING - {"base"}),
        ("validation_rows", 7, set()),
        ("method_learning_rates", {"lora": [3e-4]}, set()),
        ("method_seeds", {"lora": [0, 1]}, set()),
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
    assert before.passes[0].keys["curvature"] == after.passes[0].keys["curvature"]


def test_the_number_of_validation_rows_counts_where_they_are_held_out():
    recipe = Recipe(select="validation")
    before, after = keys_of(recipe), keys_of(recipe.override({"validation_rows": 7}))
    assert {stage for stage in before if before[stage] == after[stage]} == {"base"}


def test_a_budget_counts_where_it_is_met():
    recipe = Recipe(match="params")
    before, after = keys_of(recipe), keys_of(recipe.override({"budget_params": 10**6}))
    redone = {"plans", *TRAINED} - {"full train", "full eval"}
    assert {stage for stage in before if before[stage] != after[stage]} == redone


@pytest.mark.parametrize(
    ("stage", "redone"),
    [
        ("statistics", INITIALISED),
        ("plans", INITIALISED - set(STATISTICS)),  # they decide how many rows are read
        ("training", TRAINED),
        ("evaluation", {"base", *MEASURED}),
    ],
)
def test_other_mathematics_of_a_stage_redoes_it_and_what_comes_after(monkeypatch, stage, redone):
    before = keys_of(Recipe())
    monkeypatch.setitem(keys_module.REVISIONS, stage, 1)
    once = keys_of(Recipe())
    assert {name for name in before if before[name] != once[name]} == redone
    monkeypatch.setitem(keys_module.REVISIONS, stage, 2)
    assert {name for name in before if once[name] != keys_of(Recipe())[name]} == redone


def test_other_mathematics_of_plans_leaves_a_pass_of_a_fixed_number_of_rows(monkeypatch):
    recipe = Recipe().override({"data.calibration_rows": 8})
    before = keys_of(recipe)
    monkeypatch.setitem(keys_module.REVISIONS, "plans", 1)
    assert {name for name in before if before[name] != keys_of(recipe)[name]} == INITIALISED - {
        "curvature",
        *STATISTICS,
    }


KEPT = {
    "base": "04c5eaa13f0d9808",
    "plans": "426cf567207a5438",
    "full-lr2e-05-seed0 train": "d3fdc59a772f99b6",
    "full-lr2e-05-seed0 eval": "cf2b9fdc61d72f41",
    "full-lr0.0001-seed0 train": "39a1373275fd94ce",
    "full-lr0.0001-seed0 eval": "b9240c50e84ad0e7",
    "lora-lr0.0002-seed0 train": "bbce941541432486",
    "lora-lr0.0002-seed0 eval": "79e731cb46eaac9a",
    "lora-lr0.0005-seed0 train": "84d64dd6437bf55b",
    "lora-lr0.0005-seed0 eval": "8086209c5479aef5",
    "pissa-lr0.0002-seed0 train": "50298de1eda8125d",
    "pissa-lr0.0002-seed0 eval": "59d47464bf1b1106",
    "pissa-lr0.0005-seed0 train": "b9d7bba33ac7afba",
    "pissa-lr0.0005-seed0 eval": "f06c6eec56265393",
    "milora-lr0.0002-seed0 train": "ff83905a7b3ee314",
    "milora-lr0.0002-seed0 eval": "f7c04adad36f84b3",
    "milora-lr0.0005-seed0 train": "e3c392716c94e666",
    "milora-lr0.0005-seed0 eval": "faf56a4f41e739bc",
    "farss-lr0.0002-seed0 train": "5fc997a56684e91b",
    "farss-lr0.0002-seed0 eval": "6b1fe1f31f399d51",
    "farss-lr0.0005-seed0 train": "c87c14b38afbe7a6",
    "farss-lr0.0005-seed0 eval": "14afa78f3bdb327d",
    "farss-init-lr0.0002-seed0 train": "45e83426ec2326f9",
    "farss-init-lr0.0002-seed0 eval": "be099623c0183fbc",
    "farss-init-lr0.0005-seed0 train": "22f1ac8b065366dd",
    "farss-init-lr0.0005-seed0 eval": "6ca9315545c14513",
}
"""Keys of the shipped recipe gsm8k-smollm2; a change here makes everybody's finished trainings start anew."""


def test_finished_runs_stay_finished():
    recipe = Recipe.from_yaml(shipped_recipes()["gsm8k-smollm2"])
    keys = Keys(recipe)
    found = {"base": keys.base, "plans": keys.plans}
    for job in jobs_of(recipe):
        found |= {f"{job.id} train": keys.training(job), f"{job.id} eval": keys.evaluation(job)}
    assert found == KEPT
