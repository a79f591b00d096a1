"""`farss audit`: of an adapter that plain PEFT code made, of a whole fine-tuned model, and as a gate."""

from __future__ import annotations

import gzip
import json
import re

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from farss.config import Recipe
from farss.errors import AdapterError, ConfigError, DataError
from farss.experiment.auditing import text_rows
from farss.experiment.subjects import Subject

TARGETS = ["q_proj", "v_proj", "up_proj"]


@pytest.fixture(scope="session")
def plain_adapter(workshop):
    """A LoRA adapter that knows nothing of farss, far enough from its start to change answers."""
    folder = workshop.folder / "plain-lora"
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(workshop.model)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=TARGETS, init_lora_weights=False))
    model.save_pretrained(folder)
    return folder


def audit(farss, workshop, out, *more):
    return farss("audit", "--recipe", workshop.recipe("audit"), "--out", out, *more)


def test_an_adapter_of_plain_peft(farss, workshop, plain_adapter, tmp_path):
    out = tmp_path / "audit"
    code, text, err = audit(farss, workshop, out, "--adapter", plain_adapter, "--json")
    assert code == 0, err
    report = json.loads(text)
    assert report == json.loads((out / "audit.json").read_text())
    assert report["kind"] == "adapter" and report["subject"] == "plain-lora" and report["gate"] is None
    assert (
        sum(row["n"] for row in report["relations"]) == report["scores"]["before"]["knowledge/capitals/accuracy"]["n"]
    )
    kept = report["compared"]["K_p"]
    assert kept["low"] <= kept["value"] <= kept["high"] and kept["value"] != 1.0
    assert {path.name for path in out.iterdir()} >= {"audit.json", "audit.html", "base", "after"}
    page = (out / "audit.html").read_text()
    assert "plain-lora" in page and not re.search(r'(?:src|href)="(?!#)', page)
    assert f"{kept['value']:.3f}" in page


def test_the_base_against_itself_keeps_everything(farss, workshop, tmp_path):
    code, text, err = audit(farss, workshop, tmp_path / "audit", "--finetuned", workshop.model, "--json")
    assert code == 0, err
    report = json.loads(text)
    assert report["kind"] == "model"
    assert report["compared"]["K_p"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert report["facts"]["lost_count"] == report["facts"]["gained_count"] == 0


def test_a_whole_fine_tuned_model_is_measured_as_itself(farss, workshop, tmp_path):
    code, text, _ = audit(farss, workshop, tmp_path / "audit", "--finetuned", workshop.other, "--json")
    assert code == 0
    assert json.loads(text)["compared"]["K_p"]["value"] != 1.0


def test_other_kinds_of_adapter_load_too(farss, workshop, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(workshop.model)
    model = get_peft_model(base, IA3Config(target_modules=TARGETS, feedforward_modules=["up_proj"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ia3" in name:
                parameter.mul_(1.5)
    model.save_pretrained(tmp_path / "ia3")
    code, text, err = audit(farss, workshop, tmp_path / "audit", "--adapter", tmp_path / "ia3", "--json")
    assert code == 0, err
    assert json.loads(text)["compared"]["K_p"]["value"] != 1.0


def test_general_text_is_measured_on_request(farss, workshop, plain_adapter, tmp_path):
    (tmp_path / "text.jsonl").write_text(
        "".join(json.dumps({"text": f"line {i} of some text"}) + "\n" for i in range(40))
    )
    more = ("--text", tmp_path / "text.jsonl", "--text-windows", 3, "--max-length", 32, "--json")
    code, text, err = audit(farss, workshop, tmp_path / "audit", "--adapter", plain_adapter, *more)
    assert code == 0, err
    scores = json.loads(text)["scores"]
    before, after = (scores[when]["task/text.jsonl/loss"] for when in ("before", "after"))
    assert before["n"] == after["n"] == 3 and before["value"] != after["value"]


def test_general_text_of_a_split_of_the_data_directory(tmp_path):
    (tmp_path / "wiki").mkdir()
    with gzip.open(tmp_path / "wiki" / "test_raw.jsonl.gz", "wt") as file:
        file.write(json.dumps({"text": "some words"}) + "\n")
    recipe = Recipe().override({"data.data_dir": str(tmp_path)})
    assert text_rows(recipe, "wiki:test_raw") == [{"text": "some words"}]
    with pytest.raises(DataError, match="no split `test`"):
        text_rows(recipe, "wiki")


def test_the_gate(farss, workshop, plain_adapter, tmp_path):
    met = ("--adapter", plain_adapter, "--gate", "K_p", "--min-k", "0.0001")
    assert audit(farss, workshop, tmp_path / "audit", *met)[0] == 0
    code, _, err = audit(
        farss, workshop, tmp_path / "audit", "--adapter", plain_adapter, "--gate", "K_p", "--min-k", "99"
    )
    assert code == 3 and "keeps less than asked for" in err and "K_p at least 99" in err
    report = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert report["gate"]["met"] is False and report["gate"]["least"] == 99
    assert "Gate not met" in (tmp_path / "audit" / "audit.html").read_text()


def test_a_gate_that_cannot_be_judged_is_said_and_costs_no_figures(farss, workshop, plain_adapter, tmp_path):
    code, _, err = audit(farss, workshop, tmp_path / "audit", "--adapter", plain_adapter, "--min-k", "0.5")
    report = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert report["compared"]["K"] is None  # the tiny base answers nothing right
    assert code == 3 and "cannot be judged" in err and "no value" in err
    assert report["gate"]["met"] is None and report["gate"]["why"] == report["compared"]["undefined"]["K"]
    assert "Gate cannot be judged" in (tmp_path / "audit" / "audit.html").read_text()


def test_a_second_audit_in_the_folder_measures_the_base_once(farss, workshop, plain_adapter, tmp_path):
    out = tmp_path / "audit"
    assert audit(farss, workshop, out, "--adapter", plain_adapter)[0] == 0
    base = (out / "base" / "samples.jsonl.gz").stat().st_mtime_ns
    assert audit(farss, workshop, out, "--finetuned", workshop.other)[0] == 0
    assert (out / "base" / "samples.jsonl.gz").stat().st_mtime_ns == base
    assert json.loads((out / "audit.json").read_text())["subject"] == "other"


def test_what_is_audited_must_be_one_thing_that_is_there(tmp_path):
    with pytest.raises(ConfigError, match="one of the two"):
        Subject()
    with pytest.raises(ConfigError, match="one of the two"):
        Subject(tmp_path, "model")
    with pytest.raises(AdapterError, match="holds no adapter"):
        Subject(tmp_path)
