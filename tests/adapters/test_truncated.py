"""KaSA's adapter: which function it starts from, that the weights stay, and that every form says the same."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from peft import KasaConfig, LoraConfig, PeftModel, get_peft_model

from farss.adapters.apply import DEFAULT, apply
from farss.adapters.export import export
from farss.adapters.files import load_adapter, save_adapter
from farss.adapters.gated import constrained_factors
from farss.adapters.layers import lora_layers
from farss.adapters.trained import trained_updates
from farss.adapters.update import scaled_update
from farss.config import FarssConfig
from farss.errors import PlanError
from farss.maths.spectrum import decompose
from farss.methods import Evidence, get_method
from farss.methods.kasa.settings import KasaConfig as Settings
from farss.model.plan import Plan
from farss.model.sources import fingerprint
from farss.model.targets import find_targets, weight_matrix

CLOSE = 1e-4


def planned(model, rank: int = 4, **changes):
    evidence = Evidence(fingerprint(model), lambda target: decompose(weight_matrix(target)))
    config = FarssConfig(rank=rank, alpha=8.0, scale="alpha_over_r")
    return get_method("kasa").plan(find_targets(model), evidence, dataclasses.replace(config, **changes))


def weights(model) -> dict[str, torch.Tensor]:
    return {target.name: weight_matrix(target).detach().clone() for target in find_targets(model)}


@pytest.fixture
def trained(kit):
    def make(model, dropout: float = 0.1):
        wrapped = apply(model, planned(model), dropout=dropout)
        kit.train(wrapped)
        return wrapped

    return make


def test_the_start_is_the_model_without_its_smallest_components(model, kit):
    truncated, made, ids = copy.deepcopy(model), planned(model), kit.tokens()
    for target in find_targets(truncated):
        left, sigma, right = torch.linalg.svd(weight_matrix(target).detach().double(), full_matrices=False)
        kept = (left[:, :-4] * sigma[:-4] @ right[:-4]).float()
        target.module.weight.data.copy_(kept.T if target.transposed else kept)
    expected, before = kit.logits(truncated, ids), kit.logits(model, ids)
    wrapped = apply(model, made, dropout=0.4)
    torch.testing.assert_close(kit.logits(wrapped, ids), expected, atol=CLOSE, rtol=0)
    # What is dropped is taken from the whole input, whatever the trained part drops.
    torch.testing.assert_close(wrapped.train()(input_ids=ids).logits, expected, atol=CLOSE, rtol=0)
    assert float((expected - before).abs().max()) > 10 * CLOSE


def test_what_is_dropped_has_the_documented_norm_in_tall_and_wide_modules(model):
    """The relative error of an output is at most sigma_{k-r+1} / sigma_1 of the module's largest gain."""
    before, made = weights(model), planned(model)
    wrapped = apply(model, made)
    shapes = set()
    for row in made.targets:
        layer = lora_layers(wrapped)[row.name]
        dropped = layer.scaling[DEFAULT] * layer.lora_B[DEFAULT].start @ layer.lora_A[DEFAULT].start
        sigma = torch.linalg.svdvals(before[row.name].double())
        k = len(sigma)
        assert row.indices == tuple(range(k - 4, k))
        bound = float(sigma[k - 4] / sigma[0])
        assert float(torch.linalg.matrix_norm(dropped.double(), 2) / sigma[0]) == pytest.approx(bound, rel=1e-4)
        shapes.add((row.shape[0] > row.shape[1]) - (row.shape[0] < row.shape[1]))
    assert {-1, 1} <= shapes


def test_dropping_nothing_starts_at_the_base(model, kit, tmp_path):
    original, ids = copy.deepcopy(model), kit.tokens()
    made = planned(model, own=(Settings(drop="nothing"),))
    assert {row.indices for row in made.targets} == {()} and {row.rank for row in made.targets} == {4}
    made.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == made
    wrapped = apply(model, made)
    torch.testing.assert_close(kit.logits(wrapped, ids), kit.logits(original, ids), atol=1e-5, rtol=0)
    kit.train(wrapped)
    expected = kit.logits(wrapped, ids)
    save_adapter(wrapped, tmp_path / "adapter")
    assert torch.equal(kit.logits(load_adapter(copy.deepcopy(original), tmp_path / "adapter"), ids), expected)
    export(wrapped, tmp_path / "peft")
    stock = PeftModel.from_pretrained(copy.deepcopy(original), tmp_path / "peft")
    torch.testing.assert_close(kit.logits(stock, ids), expected, atol=CLOSE, rtol=0)


def test_the_published_code_drops_less_of_wide_weights(model, kit):
    """It keeps the first n - r singular vectors of a weight [m, n], all of them where n - r is at least m."""
    rank, truncated, ids = 11, copy.deepcopy(model), kit.tokens()
    made = planned(model, rank=rank, own=(Settings(drop="published"),))
    for target in find_targets(truncated):
        left, sigma, right = torch.linalg.svd(weight_matrix(target).detach().double(), full_matrices=False)
        keep = target.shape[1] - rank
        kept = (left[:, :keep] * sigma[:keep] @ right[:keep]).float()
        target.module.weight.data.copy_(kept.T if target.transposed else kept)
    dropped = {len(row.indices) for row in made.targets}
    assert {0, rank} <= dropped
    expected = kit.logits(truncated, ids)
    torch.testing.assert_close(kit.logits(apply(model, made), ids), expected, atol=CLOSE, rtol=0)


def test_d_is_normal_a_is_loras_and_b_zero(llama):
    made = planned(llama, rank=16)
    again = copy.deepcopy(llama)
    plain = apply(copy.deepcopy(llama), dataclasses.replace(made, initialisation="random"), seed=5)
    wrapped, same = apply(llama, made, seed=5), apply(again, made, seed=5)
    diagonals = []
    for name, layer in lora_layers(wrapped).items():
        assert torch.equal(layer.lora_A[DEFAULT].factor, lora_layers(plain)[name].lora_A[DEFAULT].weight)
        assert torch.equal(layer.lora_A[DEFAULT].gate, lora_layers(same)[name].lora_A[DEFAULT].gate)
        assert not layer.lora_B[DEFAULT].factor.any()
        diagonals.append(layer.lora_A[DEFAULT].gate.detach().flatten())
    assert float(torch.cat(diagonals).std()) == pytest.approx(1, rel=0.15)
    assert float(torch.cat(diagonals).mean()) == pytest.approx(0, abs=0.2)
    assert constrained_factors(wrapped) == {}


def test_training_moves_b_d_and_a_and_nothing_else(model, kit):
    before, made = weights(model), planned(model)
    wrapped = apply(model, made, dropout=0.1)
    names = {name for name, parameter in wrapped.named_parameters() if parameter.requires_grad}
    assert sum(dict(wrapped.named_parameters())[n].numel() for n in names) == made.trainable_parameters
    kept = {name: tensor.detach().clone() for name, tensor in wrapped.named_parameters()}
    with wrapped.disable_adapter():
        kit.logits(wrapped, kit.tokens())  # PEFT marks all adapters trainable when it switches them on again
    kit.train(wrapped)
    moved = {n for n, p in wrapped.named_parameters() if not torch.equal(p, kept[n])}
    assert moved == names
    after = weights(copy.deepcopy(wrapped).unload())
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_training_step_lowers_the_loss(model, kit):
    wrapped, ids = apply(model, planned(model)), kit.tokens(100)
    loss = lambda: float(wrapped(input_ids=ids, labels=ids).loss.detach())  # noqa: E731
    before = loss()
    kit.train(wrapped, steps=1, rate=1e-3)
    assert loss() < before


def test_saved_loaded_exported_and_merged_are_one_function(model, kit, trained, tmp_path):
    original, ids = copy.deepcopy(model), kit.tokens()
    wrapped = trained(model)
    expected = kit.logits(wrapped, ids)
    save_adapter(wrapped, tmp_path / "adapter")
    loaded = load_adapter(copy.deepcopy(original), tmp_path / "adapter")
    assert torch.equal(kit.logits(loaded, ids), expected)
    learned = [n for n, p in wrapped.named_parameters() if p.requires_grad]
    assert [n for n, p in loaded.named_parameters() if p.requires_grad] == learned
    for form in ("peft", "portable"):
        report = export(wrapped, tmp_path / form, to=form)
        assert report.rank == 8
        stock = PeftModel.from_pretrained(copy.deepcopy(original), tmp_path / form)
        torch.testing.assert_close(kit.logits(stock, ids), expected, atol=CLOSE, rtol=0)
    export(wrapped, tmp_path / "merged", to="merged")
    merged = type(original).from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(kit.logits(merged, ids), expected, atol=CLOSE, rtol=0)
    assert export(wrapped, tmp_path / "residual", to="residual").rank == 4  # the published form: a truncated base
    torch.testing.assert_close(kit.logits(wrapped.merge_and_unload(), ids), expected, atol=CLOSE, rtol=0)


def test_the_plain_lora_is_the_formula(llama, trained):
    before = weights(llama)
    wrapped = trained(llama)
    for name, update in trained_updates(wrapped).items():
        layer = lora_layers(wrapped)[name]
        gated, scale = layer.lora_A[DEFAULT], layer.scaling[DEFAULT]
        left, sigma, right = torch.linalg.svd(before[name].double(), full_matrices=False)
        diagonal = gated.gate.flatten().diag()
        learned = scale * layer.lora_B[DEFAULT].factor @ diagonal @ gated.factor
        expected = learned.double() - left[:, -4:] * sigma[-4:] @ right[-4:]
        got = update.scale * update.factors.up @ update.factors.down
        torch.testing.assert_close(got.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("t", [-0.5, 0.0, 0.5, 1.25])
def test_the_frontier_goes_from_the_base_to_the_trained_weights(llama, kit, trained, tmp_path, t):
    original, ids = copy.deepcopy(llama), kit.tokens()
    wrapped = trained(llama)
    export(wrapped, tmp_path / "out")
    stock = PeftModel.from_pretrained(copy.deepcopy(original), str(tmp_path / "out"))
    merged = copy.deepcopy(wrapped).merge_and_unload()
    with scaled_update(wrapped, t), scaled_update(stock, t), scaled_update(merged, t, original.state_dict()):
        for each in (wrapped, stock):
            torch.testing.assert_close(kit.logits(each, ids), kit.logits(merged, ids), atol=CLOSE, rtol=0)
        if t == 0:
            torch.testing.assert_close(kit.logits(wrapped, ids), kit.logits(original, ids), atol=1e-5, rtol=0)


def test_it_starts_where_peft_does(llama, kit):
    """PEFT truncates the weight itself; with the same A, B and d the functions are one."""
    other, made = copy.deepcopy(llama), planned(llama)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=[row.name for row in made.targets], kasa_config=KasaConfig())
    theirs, ours = get_peft_model(other, config).eval(), apply(llama, made)
    kit.train(ours)
    for name, layer in lora_layers(ours).items():
        twin = lora_layers(theirs)[name]
        twin.lora_A[DEFAULT].weight.data.copy_(layer.lora_A[DEFAULT].factor)
        twin.lora_B[DEFAULT].weight.data.copy_(layer.lora_B[DEFAULT].factor)
        twin.lora_diag[DEFAULT].data.copy_(layer.lora_A[DEFAULT].gate.flatten())
    torch.testing.assert_close(kit.logits(ours, kit.tokens()), kit.logits(theirs, kit.tokens()), atol=CLOSE, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_adapters_have_the_dtype_of_adapters(llama, dtype):
    wrapped = apply(llama.to(dtype), planned(llama.to(dtype)))
    wide = torch.promote_types(dtype, torch.float32)
    assert {p.dtype for name, p in wrapped.named_parameters() if "lora_" in name} == {wide}


@pytest.mark.filterwarnings("ignore::farss.maths.spectrum.AccuracyWarning")
def test_a_weight_of_lower_rank_loses_nothing(llama, kit):
    with torch.no_grad():
        for target in find_targets(llama):
            left, sigma, right = torch.linalg.svd(target.module.weight.double(), full_matrices=False)
            sigma[-6:] = 0
            target.module.weight.copy_(left * sigma @ right)
    before = kit.logits(llama, kit.tokens())
    wrapped = apply(llama, planned(llama))
    torch.testing.assert_close(kit.logits(wrapped, kit.tokens()), before, atol=CLOSE, rtol=0)


def test_at_least_one_direction_stays(llama):
    with pytest.warns(UserWarning, match="kasa"):
        ranks = {row.rank for row in planned(llama, rank=99).targets}
    assert ranks == {min(target.shape) - 1 for target in find_targets(llama)}
    with pytest.warns(UserWarning, match="kasa"):
        whole = planned(llama, rank=99, own=(Settings(drop="nothing"),)).targets
    assert all(row.rank == min(row.shape) for row in whole)
    with pytest.raises(PlanError, match="one index per unit of rank"):
        made = planned(llama)
        dataclasses.replace(made, targets=(dataclasses.replace(made.targets[0], rank=3),))
