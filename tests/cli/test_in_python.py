"""The verbs as functions: from a recipe to what was kept, without the command."""

from __future__ import annotations

import json

import farss
from farss.report import validate


def test_from_a_recipe_to_what_was_kept(workshop, tmp_path):
    recipe = farss.Recipe.from_mapping(workshop.settings(methods=["full", "lora"], **{"eval.frontier_scales": [0, 1]}))
    farss.init(recipe, "farss", tmp_path / "init")
    account = farss.train(recipe, tmp_path / "init", tmp_path / "trained")
    assert account["steps"] == 2
    adapter = tmp_path / "trained" / "adapter"
    scores = farss.evaluate(recipe, ("capitals",), tmp_path / "results", adapters=[adapter])["scores"]
    kept = farss.audit(recipe, farss.Subject(adapter=adapter), tmp_path / "audit")
    assert kept["scores"]["after"]["knowledge/capitals/log_prob"] == scores["knowledge/capitals/log_prob"]
    report, folder = farss.run(recipe, tmp_path / "run")
    both = farss.compare([folder, adapter], tmp_path / "both")
    validate(both)
    assert [run["id"] for run in both["runs"]] == [*(run["id"] for run in report["runs"]), "adapter"]
    beside = both["runs"][-1]
    assert beside["scores"]["knowledge/capitals/log_prob"] == scores["knowledge/capitals/log_prob"]
    assert json.loads((tmp_path / "both" / "report.json").read_text())["runs"][-1]["compared"] == beside["compared"]
