"""DoRA, KaSA and AdaLoRA by the command: one verb after another, and a whole run."""

from __future__ import annotations

import json

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from farss.adapters.layers import lora_layers
from farss.cli.main import main
from farss.report import validate

METHODS = ["dora", "kasa", "adalora"]


@pytest.fixture
def recipe(workshop):
    return workshop.recipe("kinds", methods=METHODS, **{"init.rank": 4, "eval.knowledge_rows": 4, "train.epochs": 2})


@pytest.mark.parametrize("method", METHODS)
def test_init_train_and_export(farss, recipe, workshop, tmp_path, method):
    for command in (
        ("init", "--recipe", recipe, "--method", method, "--out", tmp_path / "init"),
        ("train", "--init", tmp_path / "init", "--out", tmp_path / "trained"),
        ("export", "--adapter", tmp_path / "trained" / "adapter", "--to", "peft", "--out", tmp_path / "peft"),
        ("export", "--adapter", tmp_path / "trained" / "adapter", "--to", "merged", "--out", tmp_path / "merged"),
    ):
        code, _, err = farss(*command)
        assert code == 0, err
    base = AutoModelForCausalLM.from_pretrained(workshop.model)
    assert lora_layers(PeftModel.from_pretrained(base, tmp_path / "peft"))
    portable = ("export", "--adapter", tmp_path / "trained" / "adapter", "--to", "portable")
    code, _, err = farss(*portable, "--out", tmp_path / "portable")
    if method == "dora":
        assert code == 2 and "full rank" in err and "name a rank" in err and "Traceback" not in err
        code, text, _ = farss(*portable, "--rank", "3", "--out", tmp_path / "portable", "--json")
        assert code == 0 and 0 < json.loads(text)["recompression_error"] < 1
    else:
        assert code == 0, err
    trained = json.loads((tmp_path / "trained" / "train.json").read_text())
    assert ("rank_budget" in trained) == (method == "adalora")


def test_a_run_of_all_three(recipe, tmp_path):
    assert main(["run", recipe, "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    validate(report)
    assert sorted(run["method"] for run in report["runs"]) == sorted(METHODS)
    assert not (tmp_path / "statistics").exists()  # none of them needs data
    for run in report["runs"]:
        assert run["frontier"][0]["K_p"]["value"] == pytest.approx(1)
    (folder,) = tmp_path.glob("adalora-*")
    done = json.loads((folder / "train" / "done.json").read_text())
    assert done["rank_realised"] <= done["rank_budget"] and done["rank_budget"] % 4 == 0
