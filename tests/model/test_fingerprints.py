"""A fingerprint names weights: the same however loaded, another as soon as bfloat16 can see a change."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from farss.errors import ModelError
from farss.model.fingerprints import base_parameters, files_hash, fingerprint, weight_hash

LAYOUTS = ["tiny_llama", "tiny_gqa", "tiny_qwen", "tiny_gpt2"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_dtype_does_not_matter(layout, request):
    model = request.getfixturevalue(layout)
    assert fingerprint(copy.deepcopy(model).to(torch.bfloat16)) == fingerprint(model)
    assert fingerprint(copy.deepcopy(model).to(torch.bfloat16).to(torch.float64)) == fingerprint(model)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_one_weight_matters(layout, request):
    model = request.getfixturevalue(layout)
    before, seen = fingerprint(model), set()
    for _, parameter in model.named_parameters():
        last = parameter.data.view(-1)[-1]
        kept = last.clone()
        last.copy_(kept + torch.copysign(kept.abs() * 2**-6 + 1e-3, kept))
        seen.add(fingerprint(model))
        last.copy_(kept)
    assert before not in seen
    assert len(seen) == len(list(model.parameters()))
    assert fingerprint(model) == before


def test_swapped_weights_and_other_shapes_matter(tiny_llama):
    before = fingerprint(tiny_llama)
    first, second = (tiny_llama.model.layers[i].self_attn.q_proj.weight for i in (0, 1))
    first.data, second.data = second.data, first.data
    assert fingerprint(tiny_llama) != before
    first.data, second.data = second.data, first.data
    gate = tiny_llama.model.layers[0].mlp.gate_proj.weight
    gate.data = gate.data.reshape(gate.shape[1], gate.shape[0])
    assert fingerprint(tiny_llama) != before


def test_flags_and_buffers_do_not_matter(tiny_llama):
    before = fingerprint(tiny_llama)
    tiny_llama.train().requires_grad_(False).register_buffer("counter", torch.ones(3))
    assert fingerprint(tiny_llama) == before


@pytest.mark.parametrize(
    ("layout", "targets"), [("tiny_gqa", ["q_proj", "down_proj"]), ("tiny_gpt2", ["c_attn", "c_fc"])]
)
def test_an_adapter_does_not_change_it(layout, targets, request):
    model = request.getfixturevalue(layout)
    before, names = fingerprint(model), {name for name, _ in base_parameters(model)}
    head = {"tiny_gqa": "embed_tokens", "tiny_gpt2": "wte"}[layout]
    settings = LoraConfig(r=2, target_modules=targets, modules_to_save=[head], use_dora=True)
    adapted = get_peft_model(model, settings)
    assert {name for name, _ in base_parameters(adapted)} == names
    assert fingerprint(adapted) == before
    assert fingerprint(adapted.base_model.model) == before, "the model inside has adapters too"
    adapted.add_adapter("second", LoraConfig(r=1, target_modules=targets))
    assert fingerprint(adapted) == before
    next(p for n, p in adapted.named_parameters() if "base_layer.weight" in n).data.mul_(2)
    assert fingerprint(adapted) != before


def test_weights_not_in_memory_are_refused(tiny_llama):
    with pytest.raises(ModelError, match="not in memory"):
        fingerprint(tiny_llama.to("meta"))
    with pytest.raises(ModelError, match="no parameters"):
        fingerprint(torch.nn.Identity())


def test_the_hash_of_a_weight_is_exact():
    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    same = weight_hash(weight)
    assert weight_hash(weight.clone().t().contiguous().t()) == same, "strides do not matter"
    assert weight_hash(torch.nn.Parameter(weight)) == same
    for other in (weight.t(), weight.double(), weight.reshape(4, 6), torch.nextafter(weight, weight + 1)):
        assert weight_hash(other) != same
    assert len({weight_hash(torch.zeros(shape)) for shape in ((), (1,), (0,), (0, 3))}) == 4


def test_the_files_of_a_model_are_told_apart_by_any_byte(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    weights, content = tmp_path / "model.safetensors", bytes(range(250)) * 10
    weights.write_bytes(content)
    first = files_hash(tmp_path)
    (tmp_path / "README.md").write_text("not of the model")
    assert files_hash(tmp_path) == first
    for place in (0, 1234, -1):
        other = bytearray(content)
        other[place] ^= 1
        weights.write_bytes(other)
        assert files_hash(tmp_path) != first, place
    weights.write_bytes(content)
    assert files_hash(tmp_path) == first
    (tmp_path / "config.json").write_text("{ }")
    assert files_hash(tmp_path) != first
