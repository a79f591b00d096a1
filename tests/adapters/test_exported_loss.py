"""What an export says of what it lost, and the configuration that other servers and older versions of PEFT read."""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from farss.adapters.apply import apply
from farss.adapters.export import MergeWarning, export
from farss.adapters.files import load_adapter

KNOWN_LONG_AGO = {
    "base_model_name_or_path",
    "bias",
    "fan_in_fan_out",
    "inference_mode",
    "layers_to_transform",
    "lora_alpha",
    "peft_type",
    "r",
    "target_modules",
    "task_type",
}


@pytest.mark.case("a merge in bfloat16 loses the update without a word")
@pytest.mark.parametrize(("rate", "dtype", "lossy"), [(1e-6, torch.bfloat16, True), (1e-6, torch.float32, False)])
def test_a_merge_that_loses_the_update_says_how_much(llama, kit, tmp_path, rate, dtype, lossy):
    wrapped = apply(llama.to(dtype), kit.plan(llama.to(dtype)))
    kit.train(wrapped, rate=rate)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        report = export(wrapped, tmp_path / "out", to="merged")
    assert (report.lost > 0.5) == lossy and (lossy or report.lost < 0.01)
    assert any(issubclass(each.category, MergeWarning) and "float32" in str(each.message) for each in said) == lossy


def test_an_adapter_s_deviation_is_a_share_of_what_training_changed(llama, kit, tmp_path):
    wrapped = apply(llama, kit.plan(llama))
    assert export(wrapped, tmp_path / "start").share_of_change is None
    kit.train(wrapped)
    report = export(wrapped, tmp_path / "trained")
    assert 0 <= report.share_of_change < 1e-4 and report.lost is None


def test_biases_are_written_with_merged_weights(kit, tmp_path):
    model = kit.models["qwen2"]()
    original, ids = copy.deepcopy(model), kit.tokens()
    foreign = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], bias="all"))
    kit.train(foreign)
    foreign.save_pretrained(str(tmp_path / "adapter"))
    loaded = load_adapter(copy.deepcopy(original), tmp_path / "adapter")
    export(loaded, tmp_path / "merged", to="merged")
    merged = type(original).from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(kit.logits(merged, ids), kit.logits(foreign, ids), atol=1e-4, rtol=0)


@pytest.mark.case("servers and older readers refuse the portable configuration")
@pytest.mark.parametrize("layers", [(0, 1, 2), (1, 2)])
def test_the_portable_configuration_has_few_keys_and_short_names(llama, kit, tmp_path, layers):
    original = copy.deepcopy(llama)
    plan = kit.plan(llama)
    rows = tuple(row for row in plan.targets if int(row.name.split(".")[2]) in layers)
    wrapped = apply(llama, replace(plan, targets=rows))
    kit.train(wrapped)
    export(wrapped, tmp_path / "out", to="portable")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert set(config) <= KNOWN_LONG_AGO
    assert all("." not in name for name in config["target_modules"])
    assert config.get("layers_to_transform") == (None if len(layers) == 3 else list(layers))
    loaded = PeftModel.from_pretrained(original, str(tmp_path / "out"))
    torch.testing.assert_close(kit.logits(loaded, kit.tokens()), kit.logits(wrapped, kit.tokens()), atol=1e-4, rtol=0)
