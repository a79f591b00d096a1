"""DoRA's adapter: the function PEFT trains, and what every tool makes of a change that has full rank."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from farss.adapters.apply import apply
from farss.adapters.export import export
from farss.adapters.files import load_adapter, save_adapter
from farss.adapters.layers import lora_layers
from farss.adapters.magnitude import has_magnitudes, magnitudes, weight_changes
from farss.adapters.update import scaled_update
from farss.errors import AdapterError
from farss.model.targets import find_targets, weight_matrix

SAME, CLOSE = 1e-5, 1e-4


@pytest.fixture
def plan(kit):
    """A plan of magnitudes for a model."""
    return lambda model: kit.plan(model, initialisation="magnitude", scale=2.0)


@pytest.fixture
def trained(kit, plan):
    """The model with DoRA adapters after a few steps."""

    def make(model, dropout: float = 0.0):
        wrapped = apply(model, plan(model), dropout=dropout)
        kit.train(wrapped)
        return wrapped

    return make


def weights(model) -> dict[str, torch.Tensor]:
    return {target.name: weight_matrix(target).detach().clone() for target in find_targets(model)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_start_is_the_base_to_the_last_bit(model, kit, plan, dtype):
    model = model.to(dtype)
    ids, before = kit.tokens(), kit.logits(model, kit.tokens())
    wrapped = apply(model, plan(model), dropout=0.3)
    assert torch.equal(kit.logits(wrapped, ids), before)
    assert torch.equal(wrapped.train()(input_ids=ids).logits, before)
    wide = torch.promote_types(dtype, torch.float32)
    assert {p.dtype for p in wrapped.parameters() if p.requires_grad} == {wide}


def test_it_is_pefts_own(llama, kit, plan):
    other, made = copy.deepcopy(llama), plan(llama)
    rows = tuple(dataclasses.replace(row, rank=4, scale=2.0) for row in made.targets)
    ours = apply(llama, dataclasses.replace(made, targets=rows), seed=3)
    torch.manual_seed(3)
    config = LoraConfig(r=4, lora_alpha=8, use_dora=True, target_modules=[row.name for row in rows])
    theirs = get_peft_model(other, config)
    for each in (ours, theirs):
        kit.train(each)
    assert torch.equal(kit.logits(ours, kit.tokens()), kit.logits(theirs, kit.tokens()))


def test_base_weights_stay_and_the_plan_counts_what_is_trained(model, kit, plan):
    made, before = plan(model), weights(model)
    wrapped = apply(model, made, dropout=0.1)
    kit.train(wrapped)
    layers = lora_layers(wrapped)
    assert all(torch.equal(weights(copy.deepcopy(wrapped).unload())[name], before[name]) for name in layers)
    assert sum(p.numel() for p in wrapped.parameters() if p.requires_grad) == made.trainable_parameters


def test_changes_are_the_definition(model, trained):
    before, wrapped = weights(model), trained(model)
    norms = magnitudes(wrapped)
    for name, change in weight_changes(wrapped):
        after = before[name] + change
        torch.testing.assert_close(after.norm(dim=1), norms[name].abs(), rtol=1e-5, atol=0)
        layer = lora_layers(wrapped)[name]
        moved = before[name] + layer.scaling["default"] * layer.lora_B.default.weight @ layer.lora_A.default.weight
        cosines = torch.nn.functional.cosine_similarity(after, moved, dim=1)
        torch.testing.assert_close(cosines, torch.ones_like(cosines), rtol=0, atol=SAME)
        assert int(torch.linalg.matrix_rank(change.double(), rtol=1e-4)) > 2 * layer.r["default"]


def test_peft_loads_what_is_exported_and_what_is_saved(model, kit, trained, tmp_path):
    original, ids = copy.deepcopy(model), kit.tokens()
    wrapped = trained(model, dropout=0.1)
    expected = kit.logits(wrapped, ids)
    report = export(wrapped, tmp_path / "out")
    save_adapter(wrapped, tmp_path / "saved")
    assert report.max_logit_difference < CLOSE
    for folder in ("out", "saved"):
        assert json.loads((tmp_path / folder / "adapter_config.json").read_text())["use_dora"] is True
        stock = PeftModel.from_pretrained(copy.deepcopy(original), str(tmp_path / folder))
        torch.testing.assert_close(kit.logits(stock, ids), expected, atol=CLOSE, rtol=0)
        loaded = load_adapter(copy.deepcopy(original), tmp_path / folder)
        assert has_magnitudes(loaded) and torch.equal(kit.logits(loaded, ids), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_merged_form_is_the_same_function(model, kit, trained, tmp_path, dtype):
    wrapped = trained(model.to(dtype))
    export(wrapped, tmp_path / "out", to="merged")  # compares outputs itself
    merged = type(model).from_pretrained(tmp_path / "out")
    for name, change in weight_changes(wrapped):
        wide = weight_matrix(find_target(merged, name)).float()
        exact = wide_base(wrapped, name) + change
        assert torch.equal(wide, exact.to(dtype).float())


def find_target(model, name):
    return next(target for target in find_targets(model) if target.name == name)


def wide_base(wrapped, name):
    return weight_matrix(find_target(copy.deepcopy(wrapped).unload(), name)).detach().float()


def test_a_plain_lora_of_it_needs_a_rank_and_reports_its_error(model, trained, tmp_path):
    original, wrapped = copy.deepcopy(model), trained(model)
    with pytest.raises(AdapterError, match="full rank"):
        export(wrapped, tmp_path / "portable", to="portable")
    with pytest.raises(AdapterError, match="starts from zero"):
        export(wrapped, tmp_path / "residual", to="residual")
    whole = max(min(row.shape) for row in find_targets(original))
    errors = [export(wrapped, tmp_path / str(r), to="portable", rank=r).recompression_error for r in (2, 6, whole)]
    assert errors[0] > errors[1] > 0 and errors[2] < 1e-6
    stock = PeftModel.from_pretrained(original, str(tmp_path / str(whole)))
    assert not has_magnitudes(stock)


@pytest.mark.parametrize("t", [-0.5, 0.0, 0.3, 1.0, 1.25])
def test_the_frontier_scales_the_whole_change_of_the_weights(model, kit, trained, tmp_path, t):
    original, ids = copy.deepcopy(model), kit.tokens()
    wrapped = trained(model, dropout=0.1)
    export(wrapped, tmp_path / "out")
    stock = PeftModel.from_pretrained(copy.deepcopy(original), str(tmp_path / "out"))
    merged, kept = copy.deepcopy(wrapped).merge_and_unload(), {n: v.clone() for n, v in wrapped.state_dict().items()}
    before, trained_logits = kit.logits(original, ids), kit.logits(wrapped, ids)
    with scaled_update(wrapped, t), scaled_update(stock, t), scaled_update(merged, t, original.state_dict()):
        expected = kit.logits(merged, ids)
        for each in (wrapped, stock):
            torch.testing.assert_close(kit.logits(each, ids), expected, atol=CLOSE, rtol=0)
        if t == 0:
            assert torch.equal(kit.logits(wrapped, ids), before)
    assert torch.equal(kit.logits(wrapped, ids), trained_logits)
    assert all(torch.equal(value, kept[name]) for name, value in wrapped.state_dict().items())


def test_a_weight_with_a_row_of_zeros_is_refused_and_the_model_left_alone(llama, plan):
    with torch.no_grad():
        llama.model.layers[1].mlp.up_proj.weight[5] = 0
    with pytest.raises(AdapterError, match="rows of zeros"):
        apply(llama, plan(llama))
    assert lora_layers(llama) == {}


def test_a_merged_adapter_is_refused(llama, trained):
    wrapped = trained(llama)
    wrapped.merge_adapter()
    with pytest.raises(AdapterError, match="merged"):
        list(weight_changes(wrapped))
