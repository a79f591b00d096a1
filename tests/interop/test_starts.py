"""Every method from a tiny model to files: same function at the start, learns, saves, loads, exports and merges."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
from peft import PeftModel

from farss.adapters.apply import DEFAULT, apply
from farss.adapters.export import export
from farss.adapters.files import load_adapter, save_adapter
from farss.adapters.layers import lora_layers
from farss.adapters.sides import Started
from farss.config import FarssConfig
from farss.errors import PlanError
from farss.experiment.initialisation.planning import plan as make_plan
from farss.model.calibration import Batch
from farss.model.plan import Plan

METHODS = [
    "rslora",
    "dora",
    "adalora",
    "pissa-niter",
    "olora",
    "corda-kpm",
    "corda-ipm",
    "lora-null",
    "lora-null-v2",
    "eva",
    "lora-ga",
]
FROM_ZERO = {"rslora", "dora", "adalora", "eva"}
START, SAME = 1e-5, 1e-4


def planned(model, kit, method: str, base: str = "reference", questions: torch.Tensor | None = None) -> Plan:
    ids = kit.tokens(1, (6, 16))
    questions = kit.tokens(2, (6, 16)) if questions is None else questions
    calibration = [Batch(ids, torch.ones_like(ids), ids)]
    knowledge = [{"input_ids": questions, "labels": torch.full_like(questions, -100)}]
    config = FarssConfig(rank=4, alpha=4.0, base=base)
    return make_plan(model, calibration, config, method=method, knowledge=[Batch.of(each) for each in knowledge])


@pytest.fixture(params=["llama", "gpt2"])
def model(request, kit):
    return kit.models[request.param]()


@pytest.fixture(params=METHODS)
def method(request) -> str:
    return request.param


@pytest.mark.parametrize("base", ["reference", "residual"])
def test_the_start_is_the_base_model(model, kit, method, base):
    ids, before = kit.tokens(), kit.logits(model, kit.tokens())
    wrapped = apply(model, planned(model, kit, method, base), dropout=0.1 if base == "reference" else 0.0)
    torch.testing.assert_close(kit.logits(wrapped, ids), before, atol=START, rtol=0)
    torch.testing.assert_close(wrapped.train()(input_ids=ids).logits, before, atol=START, rtol=0)
    pair = base == "reference" and method not in FROM_ZERO
    assert list(wrapped.peft_config) == [DEFAULT]
    started = {isinstance(layer.lora_A[DEFAULT], Started) for layer in lora_layers(wrapped).values()}
    assert started == {(base == "residual" and method not in FROM_ZERO) or pair}


def test_a_training_step_lowers_the_loss(model, kit, method):
    wrapped = apply(model, planned(model, kit, method))
    ids = kit.tokens(100)
    loss = lambda: float(wrapped(input_ids=ids, labels=ids).loss.detach())  # noqa: E731
    before = loss()
    kit.train(wrapped, steps=1, rate=1e-3)
    assert loss() < before


@pytest.mark.parametrize("base", ["reference", "residual"])
def test_saved_loaded_exported_and_merged_are_one_function(kit, method, base, tmp_path):
    model = kit.models["llama"]()
    original, ids = copy.deepcopy(model), kit.tokens()
    wrapped = apply(model, planned(model, kit, method, base), dropout=0.1)
    kit.train(wrapped)
    expected = kit.logits(wrapped, ids)
    assert (expected - kit.logits(original, ids)).abs().max() > 1e-3
    save_adapter(wrapped, tmp_path / "adapter")
    loaded = load_adapter(copy.deepcopy(original), tmp_path / "adapter")
    torch.testing.assert_close(kit.logits(loaded, ids), expected, atol=SAME, rtol=0)
    export(wrapped, tmp_path / "peft", to="peft", base=original)
    stock = PeftModel.from_pretrained(copy.deepcopy(original), tmp_path / "peft")
    torch.testing.assert_close(kit.logits(stock, ids), expected, atol=SAME, rtol=0)
    export(wrapped, tmp_path / "merged", to="merged", base=original)
    merged = type(original).from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(kit.logits(merged, ids), expected, atol=SAME, rtol=0)
    torch.testing.assert_close(kit.logits(wrapped.merge_and_unload(), ids), expected, atol=SAME, rtol=0)


@pytest.mark.parametrize("base", ["reference", "residual"])
@pytest.mark.parametrize("side", ["down", "up"])
def test_a_frozen_side_stays_to_the_bit_through_training_switching_and_loading(kit, base, side, tmp_path):
    model = kit.models["llama"]()
    original, plan = copy.deepcopy(model), replace(planned(model, kit, "lora-null", base), frozen=side)
    wrapped = apply(model, plan, dropout=0.1)
    trainable = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
    assert trainable == plan.trainable_parameters
    save_adapter(wrapped, tmp_path / "adapter")
    loaded = load_adapter(original, tmp_path / "adapter", dropout=0.1)
    assert sum(p.numel() for p in loaded.parameters() if p.requires_grad) == trainable
    for each in (wrapped, copy.deepcopy(wrapped), loaded):
        with each.disable_adapter():
            kit.logits(each, kit.tokens())  # PEFT marks all factors trainable when it switches adapters on again
        kit.train(each)
        for row in plan.targets:
            layer, part = lora_layers(each)[row.name], plan.start[row.name]
            assert torch.equal(layer.lora_A[DEFAULT].factor, part.down) == (side == "down")
            assert torch.equal(layer.lora_B[DEFAULT].factor, part.up) == (side == "up")
        letter = "A" if side == "down" else "B"
        assert not any(p.requires_grad for n, p in each.named_parameters() if f"lora_{letter}.{DEFAULT}" in n)


def test_what_lora_null_v2_learns_does_not_change_the_outputs_on_the_samples(kit):
    """Sixteen samples leave a null space of at least sixteen dimensions, and row(A) never leaves it."""
    model = kit.models["llama"]()
    questions, moved = kit.tokens(2, (1, 16)), {}
    for method in ("lora-null", "lora-null-v2"):
        fresh = copy.deepcopy(model)
        wrapped = apply(fresh, planned(fresh, kit, method, questions=questions))
        kit.train(wrapped, steps=8)
        moved[method] = [
            float((kit.logits(wrapped, ids) - kit.logits(model, ids)).abs().max())
            for ids in (questions, kit.tokens(100))
        ]
    assert moved["lora-null-v2"][0] < 1e-4 < 1e-1 < moved["lora-null-v2"][1]
    assert moved["lora-null"][0] > 1e-2  # A is free to leave


@pytest.mark.parametrize("given", ["file", "keyword"])
def test_factors_reach_the_adapter_of_another_process(kit, tmp_path, given):
    model = kit.models["llama"]()
    plan = planned(model, kit, "corda-ipm")
    plan.save(tmp_path / "corda-ipm.json")
    read = Plan.load(tmp_path / "corda-ipm.json", start=given == "file")
    wrapped = apply(model, read, factors=None if given == "file" else plan.start)
    for row in plan.targets:
        layer, part = lora_layers(wrapped)[row.name], plan.start[row.name]
        assert torch.equal(layer.lora_A[DEFAULT].factor, part.down)
        assert torch.equal(layer.lora_B[DEFAULT].factor, part.up)


def test_other_factors_or_none_are_refused_and_the_model_left_alone(kit, tmp_path):
    model = kit.models["llama"]()
    plan, other = planned(model, kit, "corda-ipm"), planned(model, kit, "olora")
    plan.save(tmp_path / "plan.json")
    with pytest.raises(PlanError, match="not here"):
        apply(model, Plan.load(tmp_path / "plan.json"))
    with pytest.raises(PlanError, match="not those the plan was made with"):
        apply(model, plan, factors=other.start)
    mapping = plan.to_mapping()
    (tmp_path / "plan.json").write_text(json.dumps(mapping | {"targets": mapping["targets"][:2]}))
    edited = Plan.load(tmp_path / "plan.json", start=True)
    mapping["targets"][0]["rank"] = 2
    (tmp_path / "plan.json").write_text(json.dumps(mapping))
    with pytest.raises(PlanError, match="does not fit its factors"):
        apply(model, Plan.load(tmp_path / "plan.json", start=True))
    assert not any("lora" in name for name, _ in model.named_modules())
    assert len(lora_layers(apply(model, edited))) == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("method", ["corda-kpm", "lora-null-v2", "lora-ga"])
def test_factors_of_a_model_of_another_dtype_are_adapters_dtype(kit, dtype, method):
    model = kit.models["llama"]().to(dtype)
    ids, before = kit.tokens(), kit.logits(model, kit.tokens())
    wrapped = apply(model, planned(model, kit, method), dropout=0.1).train()
    wide = torch.promote_types(dtype, torch.float32)
    assert {p.dtype for name, p in wrapped.named_parameters() if "lora_" in name} == {wide}
    assert torch.equal(wrapped(input_ids=ids).logits, before)
