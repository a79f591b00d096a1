"""Methods that start from factors of their own, by the command: a whole run, and a plan obeyed later."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from farss.adapters.files import load_adapter
from farss.cli.main import main
from farss.model.plan import Plan
from farss.report import validate

METHODS = ["lora", "corda-kpm", "lora-null-v2", "eva", "lora-ga"]
KINDS = {"input_covariance", "knowledge_covariance", "gradient"}


@pytest.fixture(scope="module")
def run_folder(workshop) -> Path:
    folder = workshop.folder / "starts"
    recipe = workshop.recipe("starts", methods=METHODS, **{"eval.knowledge_rows": 4})
    assert main(["run", recipe, "--out", str(folder)]) == 0
    return folder


def test_a_run_collects_what_its_methods_ask_for_and_trains_from_the_stored_factors(run_folder):
    report = json.loads((run_folder / "report.json").read_text())
    validate(report)
    assert sorted(run["method"] for run in report["runs"]) == sorted(METHODS)
    assert {path.name for path in run_folder.iterdir() if path.name in KINDS} == KINDS
    assert not (run_folder / "statistics").exists()  # no method needs curvature
    for run in report["runs"]:
        plan = run_folder / "plans" / f"{run['method']}.json"
        assert plan.with_suffix(".safetensors").exists() == (run["method"] != "lora")
        assert run["frontier"][0]["K_p"]["value"] == pytest.approx(1)
        if run["method"] != "lora":
            assert run["init_seconds"] > 0 and run["init_peak_bytes"] > 0
    kept = Plan.load(run_folder / "lora-null-v2-lr0.01-seed0" / "train" / "adapter" / "plan.json")
    assert kept == Plan.load(run_folder / "plans" / "lora-null-v2.json") and kept.frozen == "down"


def test_each_cost_counts_only_the_statistics_its_method_needs(run_folder):
    done = {path.name: json.loads((path / "done.json").read_text()) for path in run_folder.iterdir() if path.is_dir()
            and (path / "done.json").exists()}  # fmt: skip
    runs = {run["method"]: run for run in json.loads((run_folder / "report.json").read_text())["runs"]}
    for method, kind in (("eva", "input_covariance"), ("lora-ga", "gradient"), ("corda-kpm", "knowledge_covariance")):
        trained = json.loads((run_folder / f"{method}-lr0.01-seed0" / "train" / "done.json").read_text())
        expected = done[kind]["seconds"] + done["plans"]["seconds"][method] + trained["apply_seconds"]
        assert runs[method]["init_seconds"] == pytest.approx(expected)


def test_a_run_without_a_question_left_is_refused_before_anything_starts(farss, workshop, tmp_path):
    recipe = workshop.recipe("starts", methods=["corda-kpm"])
    code, _, err = farss("run", recipe, "--out", tmp_path / "run")
    assert code == 2 and "every question of the knowledge set is asked" in err
    assert not list(tmp_path.rglob("done.json"))
    code, _, err = farss("init", "--recipe", recipe, "--method", "corda-kpm", "--out", tmp_path / "init")
    assert code == 2 and "every question of the knowledge set is asked" in err


@pytest.mark.parametrize(("method", "kind"), [("corda-kpm", "knowledge_covariance"), ("lora-ga", "gradient")])
def test_init_keeps_the_factors_beside_the_plan_and_obeys_both_later(farss, workshop, tmp_path, method, kind):
    recipe = workshop.recipe("starts", **{"data.knowledge_calibration": "facts"})
    first, again = tmp_path / "first", tmp_path / "again"
    assert farss("init", "--recipe", recipe, "--method", method, "--out", first)[0] == 0
    files = {"plan.json", "plan.safetensors", "adapter", f"{kind}.safetensors", "recipe.yaml"}
    assert {path.name for path in first.glob("[!.]*")} == files
    code, out, err = farss("init", "--model", workshop.model, "--plan", first / "plan.json", "--out", again, "--json")
    assert code == 0, err
    assert json.loads(out)["max_logit_difference"] < 1e-5
    adapters = [
        load_adapter(AutoModelForCausalLM.from_pretrained(workshop.model), place / "adapter")
        for place in (first, again)
    ]
    for one, other in zip(*(model.state_dict().items() for model in adapters), strict=True):
        assert one[0] == other[0] and torch.equal(one[1], other[1])
    assert Plan.load(again / "plan.json", start=True).factors_digest == Plan.load(first / "plan.json").factors_digest
    (first / "plan.safetensors").unlink()
    code, _, err = farss("init", "--model", workshop.model, "--plan", first / "plan.json", "--out", tmp_path / "third")
    assert code == 2 and "the factors of the plan cannot be read" in err and "Traceback" not in err


def test_a_named_knowledge_set_is_used(workshop, tmp_path, farss):
    digests = set()
    for number, name in enumerate(("facts", "facts_cloze")):
        recipe = workshop.recipe(f"starts{number}", **{"data.knowledge_calibration": name})
        out = tmp_path / name
        assert farss("init", "--recipe", recipe, "--method", "lora-null", "--out", out)[0] == 0
        plan = Plan.load(out / "plan.json")
        digests.add(plan.factors_digest)
        assert plan.data is not None and plan.data["rows"] == 6 and plan.data["supervised_tokens"] == 0
    assert len(digests) == 2
