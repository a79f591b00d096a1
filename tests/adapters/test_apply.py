from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from farss.adapters.apply import DEFAULT, apply
from farss.adapters.factors import initial_factors
from farss.adapters.layers import lora_layers, oriented, weight_shape
from farss.errors import AdapterError, PlanError
from farss.maths.spectrum import decompose
from farss.model.targets import weight_matrix

START = 1e-5


def bits(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name.replace(".base_layer", ""): p.detach().clone() for name, p in model.named_parameters()}


def test_the_start_is_the_base_model_in_evaluation_mode(model, kit):
    ids, before = kit.tokens(), kit.logits(model, kit.tokens())
    wrapped = apply(model, kit.plan(model), dropout=0.1)
    assert torch.equal(kit.logits(wrapped, ids), before)


def test_the_start_is_the_base_model_to_the_bit_in_bfloat16(model, kit):
    model.to(torch.bfloat16)
    ids, before = kit.tokens(), kit.logits(model, kit.tokens())
    wrapped = apply(model, kit.plan(model), dropout=0.1)
    assert torch.equal(kit.logits(wrapped, ids), before)


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("checkpointing", [None, True, False])
def test_the_start_is_the_base_model_while_training_with_dropout(model, kit, low, checkpointing):
    ids, before = kit.tokens(), kit.logits(model, kit.tokens())
    wrapped = apply(model, kit.plan(model, low=low), dropout=0.1)
    if checkpointing is not None:
        wrapped.enable_input_require_grads()
        wrapped.gradient_checkpointing_enable({"use_reentrant": checkpointing})
    wrapped.train()
    for _ in range(2):
        output = wrapped(input_ids=ids, labels=ids)
        assert torch.equal(output.logits, before)
        output.loss.backward()


def test_factors_known_already_are_taken_instead_of_computed(llama, kit):
    plan, other = kit.plan(llama), copy.deepcopy(llama)
    known = initial_factors(llama, plan)
    first = apply(llama, plan).state_dict()

    def never(target):
        raise AssertionError("decomposed again")

    again = apply(other, plan, never, factors=known).state_dict()
    assert first.keys() == again.keys() and all(torch.equal(first[name], again[name]) for name in first)


def test_factors_that_do_not_fit_or_have_no_place_are_refused(llama, kit):
    plan = kit.plan(llama)
    known = initial_factors(llama, plan)
    for wrong in ({}, {name: replace(part, up=part.up[:, 1:]) for name, part in known.items()}):
        with pytest.raises(PlanError, match="does not fit its factors"):
            apply(llama, plan, factors=wrong)
    random = replace(plan, initialisation="random", targets=tuple(replace(t, indices=None) for t in plan.targets))
    with pytest.raises(PlanError, match="without start factors"):
        apply(llama, random, factors=known)


def test_two_independent_dropouts_would_not_start_at_the_base_model(llama, kit):
    ids, before = kit.tokens(), kit.logits(llama, kit.tokens())
    wrapped, dropout, linear = apply(llama, kit.plan(llama)), nn.Dropout(0.1), nn.functional.linear
    for layer in lora_layers(wrapped).values():
        down, up = layer.lora_A[DEFAULT], layer.lora_B[DEFAULT]
        layer.lora_dropout[DEFAULT] = nn.Identity()
        down.forward = lambda x, d=down: (linear(dropout(x), d.factor), linear(dropout(x), d.start))
        up.forward = lambda z, u=up: linear(z[0], u.factor) - linear(z[1], u.start)
    wrapped.train()
    difference = (wrapped(input_ids=ids).logits - before).abs().max()
    assert difference > 1e-2


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_with_dropout_gives_the_gradients_of_a_plain_run(llama, kit, reentrant):
    wrapped = apply(llama, kit.plan(llama), dropout=0.2).train()
    kit.train(wrapped, steps=2)
    wrapped.train()
    layer = lora_layers(wrapped)["model.layers.1.mlp.down_proj"]
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(7)
        x = torch.randn(3, 48, generator=torch.Generator().manual_seed(1), requires_grad=True)
        y = checkpoint(layer, x, use_reentrant=reentrant) if recompute else layer(x)
        y.square().sum().backward()
        weights = [layer.lora_A[DEFAULT].factor, layer.lora_B[DEFAULT].factor]
        gradients.append([x.grad, *(w.grad for w in weights)])
        for weight in weights:
            weight.grad = None
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_without_dropout_no_module_is_added(llama, kit):
    wrapped = apply(llama, kit.plan(llama))
    for layer in lora_layers(wrapped).values():
        assert {type(module) for module in layer.lora_dropout.values()} == {nn.Identity}


def test_training_moves_the_trained_adapter_and_nothing_else(model, kit):
    before = bits(model)
    wrapped = apply(model, kit.plan(model), dropout=0.1)
    start = bits(wrapped.get_base_model())
    kit.train(wrapped)
    after = bits(wrapped.get_base_model())
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name
    for name, tensor in start.items():
        assert torch.equal(after[name], tensor) == (not name.endswith(f".{DEFAULT}.factor")), name


@pytest.mark.parametrize("switched", ["off and on", "set", "all at once"])
def test_what_an_adapter_started_from_cannot_be_unfrozen(llama, kit, switched):
    wrapped = apply(llama, kit.plan(llama))
    ids, start = kit.tokens(), bits(wrapped)
    learned = [name for name, p in wrapped.named_parameters() if p.requires_grad]
    if switched == "off and on":
        with wrapped.disable_adapter():
            kit.logits(wrapped, ids)
    elif switched == "set":
        wrapped.set_adapter(DEFAULT)
        wrapped.set_requires_grad(DEFAULT)
    else:
        wrapped.base_model.model.model.layers.requires_grad_(True)
    if switched != "all at once":
        assert [name for name, p in wrapped.named_parameters() if p.requires_grad] == learned
    kit.train(wrapped)
    after = bits(wrapped)
    assert all(torch.equal(after[name], tensor) for name, tensor in start.items() if name.endswith(".start"))


def test_stock_merging_gives_the_trained_model(llama, kit):
    ids = kit.tokens()
    wrapped = apply(llama, kit.plan(llama))
    kit.train(wrapped)
    trained = kit.logits(wrapped, ids)
    merged = wrapped.merge_and_unload()
    torch.testing.assert_close(kit.logits(merged, ids), trained, atol=1e-4, rtol=0)


def test_only_the_trained_adapter_requires_gradients(model, kit):
    plan = kit.plan(model)
    wrapped = apply(model, plan)
    trainable = {name: p for name, p in wrapped.named_parameters() if p.requires_grad}
    assert all(f".{DEFAULT}." in name for name in trainable)
    assert sum(p.numel() for p in trainable.values()) == plan.trainable_parameters
    assert wrapped.active_adapter == DEFAULT
    assert wrapped.active_adapters == [DEFAULT]


def test_ranks_and_scales_are_those_of_the_plan(model, kit):
    plan = kit.plan(model, scale=0.7)
    layers = lora_layers(apply(model, plan))
    assert list(layers) == [row.name for row in plan.targets]
    for row in plan.targets:
        layer = layers[row.name]
        assert layer.r[DEFAULT] == 2 * row.rank  # to others: the difference of two products
        assert layer.scaling[DEFAULT] == pytest.approx(row.scale)
        assert layer.lora_A[DEFAULT].factor.shape == (row.rank, row.shape[1])
        assert layer.lora_A[DEFAULT].weight.shape == (2 * row.rank, row.shape[1])


@pytest.mark.parametrize("factor_scaling", ["divided", "published"])
def test_factors_rebuild_the_chosen_part_of_the_weight(model, kit, factor_scaling):
    plan = kit.plan(model, scale=2.0, factor_scaling=factor_scaling, low=True)
    layers = lora_layers(apply(model, plan))
    for row in plan.targets:
        layer = layers[row.name]
        weight = oriented(layer.base_layer, layer.base_layer.weight.detach()).double()
        left, sigma, right = torch.linalg.svd(weight, full_matrices=False)
        chosen = list(row.indices)
        part = left[:, chosen] * sigma[chosen] @ right[chosen]
        product = layer.lora_B[DEFAULT].factor @ layer.lora_A[DEFAULT].factor
        scale = row.scale if factor_scaling == "divided" else 1.0
        torch.testing.assert_close(scale * product.double(), part, atol=1e-5, rtol=0)


def test_at_full_rank_the_product_is_the_weight(model, kit):
    plan = kit.plan(model, scale=3.0)
    rows = [replace(row, rank=min(row.shape), indices=tuple(range(min(row.shape)))) for row in plan.targets]
    layers = lora_layers(apply(model, replace(plan, targets=tuple(rows))))
    for row in rows:
        layer = layers[row.name]
        product = row.scale * layer.lora_B[DEFAULT].factor @ layer.lora_A[DEFAULT].factor
        expected = oriented(layer.base_layer, layer.base_layer.weight)
        torch.testing.assert_close(product, expected, atol=1e-5, rtol=0)


def test_given_spectra_are_used(llama, kit):
    asked = []

    def spectra(target):
        asked.append(target.name)
        return decompose(weight_matrix(target))

    plan = kit.plan(llama)
    apply(llama, plan, spectra)
    assert asked == [row.name for row in plan.targets]


def test_the_residual_form_takes_the_start_out_of_the_weights(model, kit):
    ids, before, weights = kit.tokens(), kit.logits(model, kit.tokens()), bits(model)
    plan = kit.plan(model, base="residual")
    wrapped = apply(model, plan)
    assert list(wrapped.peft_config) == [DEFAULT]
    torch.testing.assert_close(kit.logits(wrapped, ids), before, atol=START, rtol=0)
    for row in plan.targets:
        layer = lora_layers(wrapped)[row.name]
        product = layer.lora_B[DEFAULT].weight @ layer.lora_A[DEFAULT].weight
        rest = weights[f"{row.name}.weight"] - row.scale * oriented(layer.base_layer, product)
        torch.testing.assert_close(layer.base_layer.weight, rest, atol=1e-6, rtol=0)


def test_random_initialisation_is_seeded_and_leaves_the_generator_alone(llama, kit):
    plan = kit.plan(llama, initialisation="random")
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = apply(copy.deepcopy(llama), plan, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    second, third = apply(copy.deepcopy(llama), plan, seed=3), apply(copy.deepcopy(llama), plan, seed=4)
    assert list(first.peft_config) == [DEFAULT]
    name = "model.layers.0.self_attn.q_proj"
    down = [lora_layers(m)[name].lora_A[DEFAULT].weight for m in (first, second, third)]
    assert torch.equal(down[0], down[1]) and not torch.equal(down[0], down[2])
    assert not lora_layers(first)[name].lora_B[DEFAULT].weight.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_adapters_are_at_least_float32(llama, kit, dtype):
    llama.to(dtype)
    ids, before = kit.tokens(), kit.logits(llama, kit.tokens())
    wrapped = apply(llama, kit.plan(llama), dropout=0.1).train()
    wide = torch.promote_types(dtype, torch.float32)
    assert {p.dtype for name, p in wrapped.named_parameters() if "lora_" in name} == {wide}
    output = wrapped(input_ids=ids).logits
    assert output.dtype == dtype
    torch.testing.assert_close(output, before, atol=1e-12 if dtype == torch.float64 else 0.02, rtol=0)


def test_a_copy_of_a_training_model_can_be_made(llama, kit):
    wrapped = apply(llama, kit.plan(llama), dropout=0.1).train()
    wrapped(input_ids=kit.tokens())
    copied = copy.deepcopy(wrapped)
    ids = kit.tokens()
    torch.testing.assert_close(copied(input_ids=ids).logits, kit.logits(copied, ids), atol=START, rtol=0)


def test_the_mode_of_the_model_is_kept(llama, kit):
    assert not any(m.training for m in apply(llama.eval(), kit.plan(llama), dropout=0.1).modules())


def test_training_all_weights_is_no_adapter(llama, kit):
    plan = replace(kit.plan(llama, initialisation="random"), initialisation="none")
    with pytest.raises(AdapterError, match="trains all weights"):
        apply(llama, plan)


def test_a_plan_for_other_weights_is_refused_and_the_model_left_alone(llama, kit):
    plan, before = kit.plan(llama), [name for name, _ in llama.named_modules()]
    with torch.no_grad():
        llama.model.norm.weight += 1
    with pytest.raises(PlanError, match="other weights"):
        apply(llama, plan)
    assert [name for name, _ in llama.named_modules()] == before


@pytest.mark.parametrize("change", ["name", "shape", "kind", "empty"])
def test_a_plan_that_does_not_fit_says_what_differs(llama, kit, change):
    plan = kit.plan(llama)
    first = plan.targets[0]
    rows = {
        "name": (replace(first, name="model.layers.9.self_attn.q_proj"),),
        "shape": (replace(first, shape=(64, 32)),),
        "kind": (replace(first, name="model.norm"),),
        "empty": (),
    }[change]
    with pytest.raises(PlanError, match="does not fit"):
        apply(llama, replace(plan, targets=rows))


def test_a_dead_direction_is_refused(llama, kit):
    with torch.no_grad():
        llama.model.layers[0].self_attn.q_proj.weight[0].zero_()
    plan = kit.plan(llama, low=True)
    with pytest.raises(PlanError, match="singular value is zero"):
        apply(llama, plan)


def test_a_model_with_an_adapter_is_refused(llama, kit):
    plan = kit.plan(llama)
    wrapped = apply(llama, plan)
    for model in (wrapped, llama):
        with pytest.raises((AdapterError, PlanError)):
            apply(model, plan, fingerprint=plan.model_fingerprint)


def test_names_that_suffix_matching_would_confuse_are_kept_apart():
    from peft import get_peft_model

    from farss.adapters.configs import RankAndScale, check_injected, lora_config

    inner = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    both = nn.ModuleDict({"block": inner, "outer": nn.ModuleDict({"block": copy.deepcopy(inner)})})
    modules = {"block.a": RankAndScale(2, 1.0), "outer.block.b": RankAndScale(3, 0.5)}
    wrapped = get_peft_model(both, lora_config(both, modules))
    check_injected(wrapped, modules, DEFAULT)
    assert weight_shape(nn.ReLU()) is None
