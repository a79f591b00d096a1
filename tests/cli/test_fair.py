"""Equal budgets and learning rates chosen by validation, by the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from farss.cli.main import main
from farss.evaluation.records import Measurement
from farss.experiment.measuring import SAMPLES, VALIDATION
from farss.model.plan import Plan
from farss.report import validate

BUDGET = 9000
FAIR = {
    "methods": ["full", "lora", "lora-null-v2"],
    "method_learning_rates": {"lora": [1e-2, 1e-4]},
    "select": "validation",
    "validation_rows": 3,
    "match": "params",
    "budget_params": BUDGET,
    "eval.knowledge_rows": 4,
    "train.eval_steps": 1,
}
LEFT = "lora-lr0.0001-seed0"


@pytest.fixture(scope="module")
def run_folder(workshop) -> Path:
    folder = workshop.folder / "fair"
    assert main(["run", workshop.recipe("fair", **FAIR), "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def report(run_folder) -> dict:
    return json.loads((run_folder / "report.json").read_text())


def test_every_trial_is_reported_and_one_is_taken(report):
    validate(report)
    losses = {run["id"]: run["validation_loss"] for run in report["runs"]}
    assert len(losses) == 4 and losses["lora-lr0.01-seed0"] < losses[LEFT]
    assert [run["id"] for run in report["runs"] if not run["selected"]] == [LEFT]
    compared = {row[side] for row in report["comparisons"] for side in ("a", "b")}
    assert compared == set(losses) - {LEFT}
    assert report["data"]["validation_rows"] == 3


def test_the_loss_while_training_ends_at_the_loss_that_trials_are_chosen_by(report):
    for run in report["runs"]:
        found = run["while_training"]
        assert found["losses"][-1][1] == pytest.approx(
            run["validation_loss"], rel=2e-3
        )  # training computes in bfloat16
        assert found["kept_step"] == found["losses"][-1][0] and found["ended"] == "epochs"


def test_validation_rows_are_in_no_score(run_folder, report):
    scored = Measurement.load(run_folder / "base" / SAMPLES).task
    assert len(scored) == report["data"]["task_rows"]
    for run in report["runs"]:
        chosen_by = Measurement.load(run_folder / run["id"] / "eval" / VALIDATION)
        assert chosen_by.task_loss == pytest.approx(run["validation_loss"])
        assert not {s.prompt for s in chosen_by.task} & {s.prompt for s in scored}
        after = Measurement.load(run_folder / run["id"] / "eval" / SAMPLES)
        assert [s.prompt for s in after.task] == [s.prompt for s in scored]


def test_every_adapter_has_the_budget(run_folder, report):
    for run in report["runs"]:
        if run["method"] == "full":
            assert run["budget"] is None
            continue
        plan = Plan.load(run_folder / "plans" / f"{run['method']}.json")
        assert run["budget"] == {"requested": BUDGET, "realised": plan.trainable_parameters}
        assert run["trainable_params"] == plan.trainable_parameters
        assert abs(plan.trainable_parameters / BUDGET - 1) <= 0.5 / plan.settings["rank"]
    ranks = {run["method"]: run["plan"]["targets"][0]["rank"] for run in report["runs"] if run["plan"]}
    assert ranks["lora"] < ranks["lora-null-v2"]


def test_the_command_says_what_was_asked_and_had(farss, workshop, run_folder):
    code, out, _ = farss("run", workshop.recipe("fair", **FAIR), "--out", run_folder)
    assert code == 0
    words = " ".join(out.split())
    assert (
        "budget 9,000 trainable parameters: " in words
        and "chosen by their loss on validation rows; not chosen, but in the report: 1" in words
    )


def test_init_solves_ranks_too(farss, workshop, tmp_path):
    recipe = workshop.recipe("fair-init")
    code, out, err = farss(
        "init", "--recipe", recipe, "--method", "farss", "--match", "params", "--out", tmp_path / "a"
    )
    assert code == 0, err
    plan = Plan.load(tmp_path / "a" / "plan.json")
    assert f"({plan.requested_parameters:,} asked for)" in out
    code, _, err = farss("init", "--recipe", recipe, "--method", "lora", "--out", tmp_path / "b")
    assert code == 0, err
    assert Plan.load(tmp_path / "b" / "plan.json").trainable_parameters == plan.requested_parameters
    code, _, err = farss("init", "--recipe", recipe, "--engine", "streamed", "--method", "farss", "--match", "params",
                         "--out", tmp_path / "c")  # fmt: skip
    assert code == 0, err
    assert [t.rank for t in Plan.load(tmp_path / "c" / "plan.json").targets] == [t.rank for t in plan.targets]


def test_what_cannot_be_is_refused_before_anything_is_done(farss, workshop, tmp_path):
    for changes, message in (
        ({"select": "validation", "validation_rows": 50}, "lower validation_rows"),
        ({"method_learning_rates": {"farrs": [1e-3]}}, "did you mean `farss`?"),
        ({"budget_params": 100}, "match: params"),
    ):
        code, _, err = farss("run", workshop.recipe("wrong", **changes), "--out", tmp_path / "run")
        assert code == 2 and message in err and "Traceback" not in err
        assert not list(tmp_path.rglob("done.json"))
