"""What PEFT will not adapt is known before statistics are taken, and the advice works."""

from __future__ import annotations

import pytest
import torch
from tests.families import FAMILIES, make

import farss
from farss.adapters.rehearsal import check_followed
from farss.errors import ModelError
from farss.model.coverage import LeftOutWarning, coverage
from farss.model.targets import find_targets
from farss.statistics import observing

REFUSED = {"DeepSeek-V3": "gate_proj", "Qwen3-Next": "gate_proj", "Mamba": "out_proj"}
EXPERTS = ["Mixtral", "Qwen2-MoE", "Qwen3-MoE", "OLMoE", "Granite-MoE", "GPT-OSS", "DeepSeek-V3", "Qwen3-Next"]


@pytest.mark.case("what PEFT cannot follow is found before the statistics, with the exclusion that helps")
@pytest.mark.parametrize("family", REFUSED)
def test_the_exclusion_that_is_named_helps(family, monkeypatch):
    def ran(*_):
        raise AssertionError("the model was run")

    model = make(family)
    monkeypatch.setattr(observing, "_shared_inputs", ran)
    with pytest.raises(ModelError, match="PEFT does not adapt these modules") as caught:
        farss.plan(model, [{"input_ids": torch.ones(1, 4).long(), "labels": torch.ones(1, 4).long()}])
    assert REFUSED[family] in str(caught.value)
    excluded = caught.value.do.partition("init.exclude=[")[2].partition("]")[0].split(", ")
    check_followed(model, find_targets(model, exclude=excluded))


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(REFUSED)))
def test_the_others_are_followed_and_left_alone(family):
    model = make(family)
    before = {name: id(parameter) for name, parameter in model.named_parameters()}
    check_followed(model, find_targets(model))
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == before


@pytest.mark.case("experts that are left out are said with their share")
@pytest.mark.parametrize("family", EXPERTS)
def test_the_share_of_experts_is_counted(family):
    model = make(family)
    exclude = ["gate_proj", "up_proj", "down_proj"] if family in REFUSED else []
    targets = find_targets(model, exclude=exclude)
    found = coverage(model, targets)
    inside = {name: weight for name, weight in model.named_parameters() if ".layers." in name}
    assert found.blocks == sum(weight.numel() for weight in inside.values())
    assert found.adapted == sum(target.module.weight.numel() for target in targets)
    experts = sum(w.numel() for n, w in inside.items() if "experts" in n and "shared" not in n and w.ndim == 3)
    assert sum(found.stacked.values()) == experts > 0
    (note,) = found.notes()
    assert f"{experts / found.blocks:.0%}" in note and f"{found.share:.0%}" in note


@pytest.mark.parametrize("family", ["Llama", "GPT-2", "LFM2", "Mamba"])
def test_where_nothing_is_left_out_nothing_is_said(family):
    model = make(family)
    found = coverage(model, find_targets(model))
    assert found.notes() == [] and found.share > 0.8


def test_towers_beside_the_language_model_are_said():
    model = make("Gemma 3 with vision")
    found = coverage(model, find_targets(model))
    (note,) = found.notes()
    assert "model.language_model" in note
    assert found.beside == sum(w.numel() for n, w in model.named_parameters() if "vision" in n or "projector" in n)


def test_a_plan_says_and_records_what_is_left_out(tmp_path):
    model = make("Mixtral")
    ids = torch.randint(4, 90, (2, 8), generator=torch.Generator().manual_seed(0))
    with pytest.warns(LeftOutWarning, match="experts"):
        plan = farss.plan(
            model, [{"input_ids": ids, "labels": ids}], farss.FarssConfig(rank=2, r_avg=1, r_max=2, shallow_layers=1)
        )
    assert plan.coverage["share_of_blocks"] == coverage(model, find_targets(model)).share
    plan.save(tmp_path / "plan.json")
    assert farss.Plan.load(tmp_path / "plan.json").coverage == plan.coverage
