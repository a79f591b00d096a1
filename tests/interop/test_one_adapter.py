"""Whatever PEFT does to the adapter of a method gives the trained model: it is one adapter, and an ordinary one."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import Linear
from safetensors.torch import load_file, save_file

from farss.adapters.apply import apply
from farss.adapters.export import export
from farss.adapters.files import load_adapter, save_adapter
from farss.adapters.layers import lora_layers
from farss.config import FarssConfig
from farss.errors import AdapterError
from farss.experiment.initialisation.planning import plan as make_plan
from farss.methods import METHODS
from farss.model.calibration import Batch

SAME = 1e-4
ADAPTED = sorted(name for name in METHODS if METHODS[name].trains == "adapter")
COPIED = [name for name in ADAPTED if name != "adalora"]


@pytest.fixture
def trained(kit):
    """(untouched base, trained model, its outputs) of a method."""

    def make(method: str, base: str = "reference"):
        model, ids = kit.models["llama"](), kit.tokens(1, (6, 16))
        original, batches = copy.deepcopy(model), [Batch(ids, torch.ones_like(ids), ids)]
        config = FarssConfig(rank=4, alpha=4.0, r_avg=2, r_max=4, base=base)
        plan = make_plan(model, batches, config, method=method, knowledge=batches)
        wrapped = apply(model, plan, dropout=0.1)
        kit.train(wrapped)
        after = kit.logits(wrapped, kit.tokens())
        assert (after - kit.logits(original, kit.tokens())).abs().max() > 1e-3
        return original, wrapped, after

    return make


def same(kit, model, expected):
    torch.testing.assert_close(kit.logits(model, kit.tokens()), expected, atol=SAME, rtol=0)


@pytest.mark.case("a checkpoint in plain PEFT is not the trained model")
@pytest.mark.parametrize("method", ADAPTED)
def test_what_peft_saves_is_the_trained_model_to_plain_peft_and_to_us(kit, trained, tmp_path, method):
    original, wrapped, expected = trained(method)
    wrapped.save_pretrained(tmp_path / "saved", selected_adapters=["default"])
    plain = PeftModel.from_pretrained(copy.deepcopy(original), str(tmp_path / "saved"), adapter_name="other")
    assert all(type(layer) is Linear or method == "adalora" for layer in lora_layers(plain).values())
    same(kit, plain, expected)
    same(kit, plain.merge_and_unload(), expected)
    assert torch.equal(kit.logits(load_adapter(copy.deepcopy(original), tmp_path / "saved"), kit.tokens()), expected)


@pytest.mark.parametrize("method", ADAPTED)
def test_the_residual_form_is_saved_for_the_original_base(kit, trained, tmp_path, method):
    original, wrapped, expected = trained(method, "residual")
    wrapped.save_pretrained(tmp_path / "saved")
    save_adapter(wrapped, tmp_path / "ours")
    for folder in ("saved", "ours"):
        same(kit, PeftModel.from_pretrained(copy.deepcopy(original), str(tmp_path / folder)), expected)
        same(kit, load_adapter(copy.deepcopy(original), tmp_path / folder), expected)


@pytest.mark.case("merging after a resume is not the trained model")
@pytest.mark.parametrize("method", COPIED)
def test_a_resumed_adapter_is_merged_deleted_and_switched_whole(kit, trained, tmp_path, method):
    original, wrapped, expected = trained(method)
    before = kit.logits(original, kit.tokens())
    wrapped.save_pretrained(tmp_path / "saved")
    kit.train(wrapped, steps=1)
    # As the Trainer of transformers resumes, and takes up the best checkpoint.
    wrapped.load_adapter(str(tmp_path / "saved"), "default", is_trainable=True)
    wrapped.set_adapter("default")
    assert torch.equal(kit.logits(wrapped, kit.tokens()), expected)
    with wrapped.disable_adapter():
        assert torch.equal(kit.logits(wrapped, kit.tokens()), before)
    wrapped.load_adapter(str(tmp_path / "saved"), "again")
    wrapped.set_adapter("again")
    same(kit, wrapped, expected)
    wrapped.delete_adapter("default")
    same(kit, wrapped, expected)
    export(wrapped, tmp_path / "out", base=original)
    same(kit, wrapped.merge_and_unload(), expected)


@pytest.mark.parametrize("method", [name for name in COPIED if name != "dora"])  # PEFT combines no magnitudes
def test_combinations_by_peft_are_those_of_the_plain_lora(kit, trained, method):
    _, wrapped, expected = trained(method)
    wrapped.base_model.add_weighted_adapter(["default"], [1.0], "cat", combination_type="cat")
    wrapped.base_model.add_weighted_adapter(["default", "cat"], [0.5, 0.5], "svd", combination_type="svd", svd_rank=16)
    for name in ("cat", "svd"):
        wrapped.set_adapter(name)
        same(kit, wrapped, expected)


@pytest.mark.parametrize("method", COPIED)
def test_a_new_adapter_of_the_same_kind_starts_at_the_base(kit, trained, method):
    original, wrapped, _ = trained(method)
    wrapped.add_adapter("new", wrapped.peft_config["default"])
    wrapped.set_adapter("new")
    same(kit, wrapped, kit.logits(original, kit.tokens()))


@pytest.mark.case("half of an adapter passes the check of an export")
def test_the_trained_half_alone_is_refused(kit, trained, tmp_path):
    original, wrapped, _ = trained("farss")
    save_adapter(wrapped, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    halves = {name: tensor for name, tensor in load_file(file).items() if name.endswith(".weight")}
    save_file(halves, file)
    with pytest.raises(AdapterError, match="trained half"):
        load_adapter(original, tmp_path / "adapter")
