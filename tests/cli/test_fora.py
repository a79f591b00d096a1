"""The method `fora` from the command line: one verb after another, and a whole run."""

from __future__ import annotations

import json

import pytest

from farss.cli.main import main
from farss.model.plan import Plan
from farss.report import validate


@pytest.mark.parametrize("optimizer", ["adamw", "cayley_adam"])
def test_init_train_and_export(farss, workshop, tmp_path, optimizer):
    recipe = workshop.recipe(f"fora-{optimizer}", **{"init.fora": {"rho": 0.5, "optimizer": optimizer}})
    for command in (
        ("init", "--recipe", recipe, "--method", "fora", "--out", tmp_path / "init"),
        ("train", "--init", tmp_path / "init", "--out", tmp_path / "trained"),
        ("export", "--adapter", tmp_path / "trained" / "adapter", "--to", "peft", "--out", tmp_path / "peft"),
    ):
        code, _, err = farss(*command)
        assert code == 0, err
    plan = Plan.load(tmp_path / "init" / "plan.json")
    best = sorted(plan.layer_scores, key=lambda layer: -plan.layer_scores[layer])[: len(plan.layer_scores) // 2]
    assert {str(target.layer) for target in plan.targets} == set(best)
    assert json.loads((tmp_path / "trained" / "train.json").read_text())["steps"] > 0


def test_a_run_takes_layer_scores_and_no_curvature(workshop, tmp_path):
    recipe = workshop.recipe("fora-run", methods=["full", "fora"])
    assert main(["run", recipe, "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    validate(report)
    assert not (tmp_path / "statistics").exists()
    (fora,) = [run for run in report["runs"] if run["method"] == "fora"]
    taken = json.loads((tmp_path / "layer_fisher" / "done.json").read_text())
    assert fora["init_seconds"] > taken["seconds"] > 0
    assert fora["trainable_params"] == Plan.load(tmp_path / "plans" / "fora.json").trainable_parameters
