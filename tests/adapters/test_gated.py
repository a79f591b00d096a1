"""FoRA's adapter: its start, its files, and that every other tool sees `s g B A`."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from peft import PeftModel

from farss.adapters.apply import DEFAULT, apply
from farss.adapters.export import export
from farss.adapters.files import load_adapter, save_adapter
from farss.adapters.gated import constrained_factors
from farss.adapters.layers import lora_layers
from farss.adapters.sides import GatedDown
from farss.adapters.trained import trained_updates
from farss.adapters.update import scaled_update
from farss.config import FarssConfig
from farss.errors import AdapterError, PlanError
from farss.maths.stiefel import orthogonality_error
from farss.methods.fora.settings import ForaConfig

SAME = 1e-5
LAYOUTS = ("gpt2", "llama", "qwen2")


@pytest.fixture
def plan(kit):
    """A constrained plan for a model."""

    def make(model, factor="B"):
        made = kit.plan(model, initialisation="constrained", scale=2.0)
        settings = FarssConfig(own=(ForaConfig(factor=factor),)).to_mapping()
        return dataclasses.replace(made, settings=settings)

    return make


def opened(model, seed: int = 0):
    """The same model with gates and free factors away from the start, as after some training."""
    generator = torch.Generator().manual_seed(seed)
    for layer in lora_layers(model).values():
        layer.lora_A[DEFAULT].gate.data.fill_(0.2 + 0.1 * float(torch.rand((), generator=generator)))
    return model


def tensors(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("factor", ["B", "A"])
def test_the_start_is_the_base_to_the_last_bit(model, kit, plan, factor):
    ids = kit.tokens()
    before, weights = kit.logits(model, ids), {n: p.clone() for n, p in model.named_parameters()}
    wrapped = apply(model, plan(model, factor), dropout=0.3)
    assert torch.equal(kit.logits(wrapped, ids), before)
    wrapped.train()
    assert torch.equal(wrapped(input_ids=ids).logits, before)
    kept = {n.replace(".base_layer", "").removeprefix("base_model.model."): p for n, p in wrapped.named_parameters()}
    assert all(torch.equal(kept[name], weight) for name, weight in weights.items())


@pytest.mark.parametrize("factor", ["B", "A"])
def test_one_factor_is_orthonormal_the_other_gaussian_the_gate_zero(llama, plan, factor):
    rows = plan(llama, factor)
    wrapped = apply(
        llama, dataclasses.replace(rows, targets=tuple(dataclasses.replace(t, rank=16) for t in rows.targets))
    )
    held = constrained_factors(wrapped)
    assert set(held) == {t.name for t in rows.targets}
    assert max(orthogonality_error(part.point()) for part in held.values()) < 1e-6
    free = []
    for layer in lora_layers(wrapped).values():
        down, up = layer.lora_A[DEFAULT], layer.lora_B[DEFAULT].weight
        assert float(down.gate.detach()) == 0.0 and down.factor.dtype == up.dtype == torch.float32
        free.append((down.factor if factor == "B" else up).detach().flatten())
    assert float(torch.cat(free).std()) == pytest.approx(1 / 16**0.5, rel=0.05)


def test_the_singular_values_of_the_product_are_those_of_the_free_factor(llama, plan):
    wrapped = opened(apply(llama, plan(llama)))
    for layer in lora_layers(wrapped).values():
        down, up = layer.lora_A[DEFAULT], layer.lora_B[DEFAULT].weight
        whole = torch.linalg.svdvals(up @ down.factor)[: len(down.factor)]
        torch.testing.assert_close(whole, torch.linalg.svdvals(down.factor), atol=SAME, rtol=0)


def test_at_the_start_only_the_gates_have_a_gradient(llama, kit, plan):
    wrapped = apply(llama, plan(llama))
    ids = kit.tokens()
    wrapped(input_ids=ids, labels=ids).loss.backward()
    for name, parameter in wrapped.named_parameters():
        if parameter.requires_grad:
            assert (float(parameter.grad.abs().max()) > 0) == name.endswith("gate"), name


def test_seeds_draw_the_factors(kit, plan):
    first, again, other = (
        {n: c.parameter for n, c in constrained_factors(apply(m, plan(m), seed=seed)).items()}
        for m, seed in ((kit.models["llama"](), 1), (kit.models["llama"](), 1), (kit.models["llama"](), 2))
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_the_plan_counts_what_is_trained(model, plan):
    made = plan(model)
    wrapped = apply(model, made)
    assert sum(p.numel() for p in wrapped.parameters() if p.requires_grad) == made.trainable_parameters


@pytest.mark.parametrize("factor", ["B", "A"])
def test_a_saved_adapter_comes_back_bit_for_bit(model, kit, plan, tmp_path, factor):
    original = copy.deepcopy(model)
    wrapped = opened(apply(model, plan(model, factor), dropout=0.1))
    save_adapter(wrapped, tmp_path / "adapter")
    loaded = load_adapter(original, tmp_path / "adapter")
    assert torch.equal(kit.logits(loaded, kit.tokens()), kit.logits(wrapped, kit.tokens()))
    kept = tensors(wrapped)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in tensors(loaded).items())
    assert [n for n, p in loaded.named_parameters() if p.requires_grad] == [
        n for n, p in wrapped.named_parameters() if p.requires_grad
    ]
    assert set(constrained_factors(loaded)) == set(constrained_factors(wrapped))


def test_a_frozen_load_trains_nothing(llama, kit, plan, tmp_path):
    original = copy.deepcopy(llama)
    save_adapter(apply(llama, plan(llama)), tmp_path / "adapter")
    loaded = load_adapter(original, tmp_path / "adapter", trainable=False)
    assert not any(p.requires_grad for p in loaded.parameters())


def test_a_loader_that_knows_no_gate_gets_the_same_function(llama, kit, plan, tmp_path):
    original, ids = copy.deepcopy(llama), kit.tokens()
    wrapped = opened(apply(llama, plan(llama)))
    expected = kit.logits(wrapped, ids)
    save_adapter(wrapped, tmp_path / "ours")
    wrapped.save_pretrained(tmp_path / "theirs")
    for folder in ("ours", "theirs"):
        plain = PeftModel.from_pretrained(copy.deepcopy(original), str(tmp_path / folder))
        assert not any(isinstance(module, GatedDown) for module in plain.modules())
        torch.testing.assert_close(kit.logits(plain, ids), expected, atol=SAME, rtol=0)
    loaded = load_adapter(copy.deepcopy(original), tmp_path / "theirs")
    assert torch.equal(kit.logits(loaded, ids), expected)
    with pytest.raises(AdapterError, match="orthonormal"):
        constrained_factors(loaded)  # PEFT's own folder has no plan


@pytest.mark.parametrize("to", ["peft", "portable", "merged"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_export_folds_the_gate(kit, plan, tmp_path, to, layout):
    model = kit.models[layout]()
    original = copy.deepcopy(model)
    wrapped = opened(apply(model, plan(model)))
    change = (kit.logits(wrapped, kit.tokens()) - kit.logits(original, kit.tokens())).abs().max()
    assert float(change) > 1e-2
    report = export(wrapped, tmp_path / "out", to=to)
    assert report.max_logit_difference < 1e-4


def test_the_residual_form_is_refused(llama, plan, tmp_path):
    with pytest.raises(AdapterError, match="starts from zero"):
        export(opened(apply(llama, plan(llama))), tmp_path / "out", to="residual")


def test_merging_with_peft_gives_the_same_outputs(model, kit, plan):
    wrapped = opened(apply(model, plan(model)))
    expected = kit.logits(wrapped, kit.tokens())
    torch.testing.assert_close(kit.logits(wrapped.merge_and_unload(), kit.tokens()), expected, atol=1e-4, rtol=0)


def test_updates_are_the_gated_products(llama, plan):
    wrapped = opened(apply(llama, plan(llama)))
    updates = trained_updates(wrapped)
    for name, layer in lora_layers(wrapped).items():
        down, up = layer.lora_A[DEFAULT], layer.lora_B[DEFAULT].weight
        ours = updates[name].scale * updates[name].factors.up @ updates[name].factors.down
        torch.testing.assert_close(ours, layer.scaling[DEFAULT] * down.gate * (up @ down.factor))
        assert not ours.requires_grad


@pytest.mark.parametrize("t", [0.0, 0.5, 1.25])
def test_the_frontier_scales_the_trained_and_the_exported_form_alike(llama, kit, plan, tmp_path, t):
    original, ids = copy.deepcopy(llama), kit.tokens()
    wrapped = opened(apply(llama, plan(llama)))
    export(wrapped, tmp_path / "out")
    exported = PeftModel.from_pretrained(copy.deepcopy(original), str(tmp_path / "out"))
    kept = tensors(wrapped)
    with scaled_update(wrapped, t), scaled_update(exported, t):
        torch.testing.assert_close(kit.logits(wrapped, ids), kit.logits(exported, ids), atol=SAME, rtol=0)
        if t == 0:
            torch.testing.assert_close(kit.logits(wrapped, ids), kit.logits(original, ids), atol=SAME, rtol=0)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in wrapped.state_dict().items())


def test_a_state_dict_round_trip_keeps_everything(llama, kit, plan):
    wrapped = opened(apply(llama, plan(llama)))
    kept = tensors(wrapped)
    for layer in lora_layers(wrapped).values():
        layer.lora_A[DEFAULT].gate.data.zero_()
    wrapped.load_state_dict(kept)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in wrapped.state_dict().items())


def test_adapters_stay_float32_on_a_bfloat16_base(llama, plan):
    model = llama.to(torch.bfloat16)
    held = constrained_factors(apply(model, plan(model)))
    assert {part.parameter.dtype for part in held.values()} == {torch.float32}


def test_a_plan_that_names_no_factor_is_refused(llama, kit):
    with pytest.raises(PlanError, match="constrained factor"):
        apply(llama, kit.plan(llama, initialisation="constrained"))


def test_other_adapters_have_no_constrained_factors(llama, kit):
    assert constrained_factors(llama) == {}
    assert constrained_factors(apply(llama, kit.plan(llama, initialisation="random"))) == {}
