from __future__ import annotations

import copy
import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from farss.adapters.apply import DEFAULT, apply
from farss.adapters.files import base_name_of, load_adapter, save_adapter
from farss.adapters.layers import lora_layers
from farss.adapters.provenance import provenance_of
from farss.adapters.sides import PairedDown
from farss.errors import AdapterError, StorageError

SAME = 1e-5


@pytest.mark.parametrize("base", ["reference", "residual"])
@pytest.mark.parametrize("steps", [0, 3])
def test_a_saved_adapter_comes_back_on_the_same_base(model, kit, tmp_path, base, steps):
    original, plan = copy.deepcopy(model), kit.plan(model, base=base)
    wrapped = apply(model, plan, dropout=0.1)
    kit.train(wrapped, steps)
    save_adapter(wrapped, tmp_path / "adapter")
    loaded = load_adapter(original, tmp_path / "adapter")
    torch.testing.assert_close(kit.logits(loaded, kit.tokens()), kit.logits(wrapped, kit.tokens()), atol=SAME, rtol=0)
    assert provenance_of(loaded).plan == plan
    assert sum(p.numel() for p in loaded.parameters() if p.requires_grad) == plan.trainable_parameters


def test_a_loaded_adapter_trains_on_as_the_first_one_would(llama, kit, tmp_path):
    original = copy.deepcopy(llama)
    wrapped = apply(llama, kit.plan(llama), dropout=0.1)
    save_adapter(wrapped, tmp_path / "adapter")
    loaded = load_adapter(original, tmp_path / "adapter")
    assert isinstance(lora_layers(loaded)["model.layers.0.mlp.up_proj"].lora_A[DEFAULT], PairedDown)
    ids = kit.tokens()
    results = []
    for each in (wrapped, loaded):
        torch.manual_seed(3)
        kit.train(each, steps=3)
        results.append(kit.logits(each, ids))
    torch.testing.assert_close(results[0], results[1], atol=SAME, rtol=0)


def test_a_trainers_checkpoint_is_read_as_it_was_trained(llama, kit, tmp_path):
    original = copy.deepcopy(llama)
    wrapped = apply(llama, kit.plan(llama))
    kit.train(wrapped)
    wrapped.save_pretrained(tmp_path / "checkpoint")
    loaded = load_adapter(original, tmp_path / "checkpoint", trainable=False)
    torch.testing.assert_close(kit.logits(loaded, kit.tokens()), kit.logits(wrapped, kit.tokens()), atol=SAME, rtol=0)
    assert not any(p.requires_grad for p in loaded.parameters())


def test_a_foreign_adapter_is_read_as_it_is(llama, kit, tmp_path):
    original = copy.deepcopy(llama)
    stock = get_peft_model(llama, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    stock.save_pretrained(tmp_path / "stock")
    loaded = load_adapter(original, tmp_path / "stock")
    torch.testing.assert_close(kit.logits(loaded, kit.tokens()), kit.logits(stock, kit.tokens()))
    assert provenance_of(loaded) is None


def test_another_base_model_is_refused(llama, kit, tmp_path):
    other = copy.deepcopy(llama)
    save_adapter(apply(llama, kit.plan(llama)), tmp_path / "adapter")
    with torch.no_grad():
        other.model.norm.weight += 1
    with pytest.raises(AdapterError, match="another base"):
        load_adapter(other, tmp_path / "adapter")


def test_files_are_the_same_every_time(llama, kit, tmp_path):
    wrapped = apply(llama, kit.plan(llama))
    for name in ("first", "second"):
        save_adapter(wrapped, tmp_path / name)
    for file in sorted((tmp_path / "first").rglob("*.*")):
        twin = tmp_path / "second" / file.relative_to(tmp_path / "first")
        assert file.read_bytes() == twin.read_bytes(), file


def test_a_missing_folder_is_refused(llama, tmp_path):
    with pytest.raises(AdapterError, match="no adapter"):
        load_adapter(llama, tmp_path / "nowhere")


@pytest.mark.parametrize("damage", ["weights", "config", "tensor"])
def test_a_damaged_folder_is_refused(llama, kit, tmp_path, damage):
    original = copy.deepcopy(llama)
    folder = tmp_path / "adapter"
    save_adapter(apply(llama, kit.plan(llama)), folder)
    weights = folder / "adapter_model.safetensors"
    if damage == "weights":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "config":
        (folder / "adapter_config.json").write_text("{")
    else:
        tensors = load_file(weights)
        tensors.pop(sorted(tensors)[0])
        save_file(tensors, weights)
    with pytest.raises(AdapterError):
        load_adapter(original, folder)


def test_a_filled_folder_is_not_overwritten(llama, kit, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match="not empty"):
        save_adapter(apply(llama, kit.plan(llama)), tmp_path)


def test_dropout_can_be_set_when_loading(llama, kit, tmp_path):
    original, before = copy.deepcopy(llama), kit.logits(llama, kit.tokens())
    save_adapter(apply(llama, kit.plan(llama)), tmp_path / "adapter")
    loaded = load_adapter(original, tmp_path / "adapter", dropout=0.3).train()
    layer = lora_layers(loaded)["model.layers.0.mlp.up_proj"]
    assert layer.lora_dropout[DEFAULT].p == 0.3
    torch.testing.assert_close(loaded(input_ids=kit.tokens()).logits, before, atol=SAME, rtol=0)


def test_an_adapter_names_its_base(llama, kit, tmp_path):
    save_adapter(apply(copy.deepcopy(llama), kit.plan(llama)), tmp_path / "nameless")
    with pytest.raises(AdapterError, match="does not name"):
        base_name_of(tmp_path / "nameless")
    llama.name_or_path = "some/model"
    save_adapter(apply(llama, kit.plan(llama)), tmp_path / "named")
    assert base_name_of(tmp_path / "named") == "some/model"


def test_the_configuration_names_modules_in_full(llama, kit, tmp_path):
    plan = kit.plan(llama)
    save_adapter(apply(llama, plan), tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["init_lora_weights"] is True
    ranks = {row.name: 2 * row.rank for row in plan.targets}  # to others a LoRA of twice the rank
    for key, rank in config["rank_pattern"].items():
        assert key.startswith("^") and ranks[key[1:].replace("\\", "")] == rank
    assert config["task_type"] == "CAUSAL_LM"
    assert isinstance(PeftModel.from_pretrained(llama.__class__(llama.config), tmp_path / "adapter"), PeftModel)
    assert DEFAULT == "default"
