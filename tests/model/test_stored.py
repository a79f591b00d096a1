"""A checkpoint read piece by piece gives the weights that transformers loads from it, whatever it calls them."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.families import saved

from farss.config import ModelConfig
from farss.model.lazy import LazyWeights, skeleton
from farss.model.sources import load

FAMILIES = ["GPT-NeoX (Pythia)", "GPT-2", "Mixtral", "Qwen2-MoE", "DeepSeek-V3", "Qwen3-Next", "Granite-MoE"]
FAMILIES += ["Gemma 3 with vision", "Qwen3.5 with vision", "LLaVA"]


def lazily(folder):
    model, kind = skeleton(folder)
    return model, LazyWeights(folder, model, kind)


@pytest.mark.case("both engines read the same weights from renamed and fused checkpoints")
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_and_buffers_are_those_that_transformers_loads(family, tiny_tokenizer, tmp_path):
    folder = saved(family, tmp_path / "model", tiny_tokenizer)
    whole = load(ModelConfig(name=str(folder))).model
    model, weights = lazily(folder)
    read = dict(weights.read(weights.parameters))
    assert set(read) == {name for name, _ in whole.named_parameters()}
    for name, weight in read.items():
        assert torch.equal(weight, whole.get_parameter(name)), name
    for name, buffer in whole.named_buffers():
        assert torch.equal(model.get_buffer(name), buffer), name


def test_experts_stored_one_by_one_are_all_announced(tiny_tokenizer, tmp_path):
    folder = saved("Mixtral", tmp_path / "model", tiny_tokenizer)
    stored = load_file(folder / "model.safetensors")
    assert sum("experts" in key for key in stored) == 2 * 4 * 3  # layers, experts, matrices
    _, weights = lazily(folder)
    fused = [name for name in weights.parameters if "experts" in name]
    assert sorted(key for name in fused for key in weights.sources[name].keys) == sorted(
        k for k in stored if "experts" in k
    )


@pytest.mark.parametrize("kept", ["model.embed_tokens.weight", "lm_head.weight"])
def test_tied_weights_may_be_stored_under_either_name(kept, tiny_gqa, tiny_tokenizer, tmp_path):
    tiny_gqa.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    (name,) = {"model.embed_tokens.weight", "lm_head.weight"} & set(stored)
    stored[kept] = stored.pop(name)
    save_file(stored, tmp_path / "model.safetensors", {"format": "pt"})
    _, weights = lazily(tmp_path)
    assert torch.equal(dict(weights.read(weights.parameters))["model.embed_tokens.weight"], stored[kept])
