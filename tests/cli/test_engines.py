"""Both engines of `farss init` decide the same, and an interrupted call ends as if it had not been."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from farss.adapters.files import load_adapter
from farss.experiment import initialising
from farss.model.plan import Plan


def init(farss, workshop, out, *more, method="farss"):
    arguments = ("--recipe", workshop.recipe(), "--method", method, "--out", out)
    return farss("init", *arguments, "--json", *more)


@pytest.mark.parametrize("method", ["farss", "farss-init", "pissa", "milora", "lora"])
def test_the_streamed_engine_plans_and_starts_as_the_resident_one(farss, workshop, tmp_path, method):
    for engine in ("resident", "streamed"):
        code, text, err = init(farss, workshop, tmp_path / engine, "--engine", engine, method=method)
        assert code == 0, err
        assert json.loads(text)["engine"] == engine
    resident, streamed = (Plan.load(tmp_path / engine / "plan.json") for engine in ("resident", "streamed"))
    assert [(t.name, t.rank, t.indices) for t in resident.targets] == [
        (t.name, t.rank, t.indices) for t in streamed.targets
    ]
    assert resident.model_fingerprint == streamed.model_fingerprint and resident.data == streamed.data
    one, other = (load_file(tmp_path / e / "adapter" / "adapter_model.safetensors") for e in ("resident", "streamed"))
    assert one.keys() == other.keys()
    for name, weight in one.items():
        assert torch.allclose(weight, other[name], rtol=0, atol=1e-6), name
    configs = [
        json.loads((tmp_path / e / "adapter" / "adapter_config.json").read_text()) for e in ("resident", "streamed")
    ]
    assert configs[0] == configs[1]


def test_a_streamed_adapter_starts_at_the_base(farss, workshop, tmp_path):
    code, text, _ = init(farss, workshop, tmp_path / "init", "--engine", "streamed")
    assert code == 0 and json.loads(text)["max_logit_difference"] is None
    base = AutoModelForCausalLM.from_pretrained(workshop.model)
    ids = torch.arange(3, 43).reshape(2, 20)
    with torch.no_grad():
        before = base(input_ids=ids).logits
        assert torch.equal(load_adapter(base, tmp_path / "init" / "adapter").eval()(input_ids=ids).logits, before)
    assert not (tmp_path / ".init.work").exists()


def test_the_residual_form_needs_the_weights(farss, workshop, tmp_path):
    code, _, err = init(farss, workshop, tmp_path / "init", "--engine", "streamed", "--base", "residual")
    assert code == 2 and "use the resident engine" in err
    assert not (tmp_path / "init").exists()


def test_too_little_memory_is_said_before_anything_is_loaded(farss, workshop, tmp_path, monkeypatch):
    monkeypatch.setattr("farss.model.cost.available_bytes", lambda: 1_000_000)
    code, _, err = init(farss, workshop, tmp_path / "init")
    assert code == 2 and "too little memory" in err and "block by block" in err
    assert not (tmp_path / "init").exists()


def test_what_does_not_fit_is_streamed(farss, workshop, tmp_path, monkeypatch):
    monkeypatch.setattr(initialising, "choose_engine", lambda resident, streamed: "streamed")
    code, text, _ = init(farss, workshop, tmp_path / "init")
    assert code == 0 and json.loads(text)["engine"] == "streamed"
