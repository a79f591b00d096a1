"""Which modules are found, in which layer and shape, and what is refused."""

from __future__ import annotations

import pytest
import torch
from tests.families import make
from torch import nn

from farss.errors import ModelError
from farss.model.targets import chain_prefixes, find_targets, layer_count, weight_matrix

LLAMA_KINDS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def test_every_linear_of_every_block_in_model_order(tiny_gqa):
    found = find_targets(tiny_gqa)
    assert [t.kind for t in found] == LLAMA_KINDS * 3
    assert [t.layer for t in found] == [layer for layer in range(3) for _ in range(7)]
    assert {t.kind: t.shape for t in found}["k_proj"] == (16, 32)
    assert layer_count(found) == 3
    assert not any(t.bias or t.transposed for t in found)


def test_biases_are_seen(tiny_qwen):
    assert [t.bias for t in find_targets(tiny_qwen)][:4] == [True, True, True, False]


def test_conv1d_is_given_transposed(tiny_gpt2):
    found = find_targets(tiny_gpt2)
    assert [t.kind for t in found[:4]] == ["c_attn", "c_proj", "c_fc", "c_proj"]
    target = found[0]
    assert target.transposed and target.shape == (96, 32) and target.layer == 0
    x = torch.randn(5, 32)
    with torch.no_grad():
        assert torch.allclose(target.module(x) - target.module.bias, x @ weight_matrix(target).T, atol=1e-5)


def test_encoder_layers_are_recognised_and_the_classifier_is_not():
    from transformers import RobertaConfig, RobertaForSequenceClassification

    config = RobertaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    found = find_targets(RobertaForSequenceClassification(config))
    assert len(found) == 12 and {t.layer for t in found} == {0, 1}
    assert not any("classifier" in t.name for t in found)


def test_a_name_part_and_a_full_pattern_select(tiny_llama):
    assert len(find_targets(tiny_llama, targets=["q_proj", "down_proj"])) == 6
    (found,) = find_targets(tiny_llama, targets=[r".*\.1\.mlp\.up_proj"])
    assert (found.name, found.layer) == ("model.layers.1.mlp.up_proj", 1)


def test_excluded_modules_are_left_out(tiny_llama):
    found = find_targets(tiny_llama, exclude=["mlp", r"model\.layers\.0\..*"])
    assert [t.kind for t in found] == LLAMA_KINDS[:4] * 2 and {t.layer for t in found} == {1, 2}


@pytest.mark.parametrize("option", ["targets", "exclude"])
def test_a_pattern_without_a_hit_names_near_modules(tiny_llama, option):
    with pytest.raises(ModelError, match="q_proj"):
        find_targets(tiny_llama, **{option: ["q_porj"]})


def test_excluding_everything_is_refused(tiny_llama):
    with pytest.raises(ModelError, match="no linear module"):
        find_targets(tiny_llama, exclude=[".*"])


def test_a_model_without_blocks_is_refused():
    with pytest.raises(ModelError, match="no linear module"):
        find_targets(nn.Sequential(nn.Linear(3, 3)))


@pytest.mark.parametrize("fixture", ["tiny_llama", "tiny_gqa"])
def test_the_output_head_is_refused(request, fixture):
    with pytest.raises(ModelError, match="output head"):
        find_targets(request.getfixturevalue(fixture), targets=["lm_head"])


def test_linears_that_share_a_weight_are_left_out(tiny_llama):
    layers = tiny_llama.model.layers
    layers[0].self_attn.q_proj.weight = layers[1].self_attn.q_proj.weight
    assert len(find_targets(tiny_llama)) == 19


class PackedLinear(nn.Module):
    """Like the linears of quantisation libraries: no nn.Linear, integer storage."""

    in_features = out_features = 32

    def __init__(self):
        super().__init__()
        self.register_buffer("qweight", torch.zeros(32, 4, dtype=torch.int32))


class FakeLinear(nn.Linear):
    """Like bitsandbytes' linears: a subclass with a forward of its own."""

    def forward(self, h):
        return super().forward(h).round()


@pytest.mark.parametrize("replacement", [PackedLinear(), FakeLinear(32, 32)], ids=["packed", "subclass"])
def test_linears_that_are_not_plain_are_refused(tiny_llama, replacement):
    tiny_llama.model.layers[1].self_attn.o_proj = replacement
    with pytest.raises(ModelError, match=r"layers\.1\.self_attn\.o_proj"):
        find_targets(tiny_llama)
    assert len(find_targets(tiny_llama, exclude=["o_proj"])) == 18


def test_a_model_with_adapters_is_refused(tiny_llama):
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(tiny_llama, LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ModelError, match="q_proj"):
        find_targets(adapted)


def test_an_offloaded_model_is_refused(tiny_llama):
    with pytest.raises(ModelError, match="not in memory"):
        find_targets(tiny_llama.to("meta"))


@pytest.mark.case("the language model of several towers is found by structure, not by size")
@pytest.mark.parametrize("family", ["Gemma 3 with vision", "Qwen3.5 with vision", "LLaVA"])
def test_only_the_language_model_is_adapted(family):
    model = make(family)
    seen = {name for name, _ in model.named_modules() if "vision" in name or "visual" in name}
    assert seen  # and Gemma's and LLaVA's have as many linears as the language model, or more
    for patterns in ((), (r".*\d\..*proj.*",)):
        chosen = {target.name for target in find_targets(model, patterns)}
        assert chosen and not chosen & seen
        assert all(".language_model." in name for name in chosen)
    assert chain_prefixes(model) == ["model.language_model.layers"]


def test_a_pattern_that_names_the_vision_tower_hits_nothing():
    with pytest.raises(ModelError, match="matches no linear module"):
        find_targets(make("LLaVA"), ["fc1"])


def test_a_linear_layer_in_its_own_words_is_one():
    (target, *_) = find_targets(make("Falcon"))
    assert type(target.module) is not nn.Linear and isinstance(target.module, nn.Linear)


@pytest.mark.parametrize("forward", [lambda self, h: 2 * h @ self.weight.T, lambda self, h: self.scale * h])
def test_a_linear_layer_that_does_something_else_is_refused(tiny_llama, forward):
    kind = type("Scaled", (nn.Linear,), {"forward": forward})
    tiny_llama.model.layers[0].mlp.up_proj.__class__ = kind
    with pytest.raises(ModelError, match="not a plain linear layer"):
        find_targets(tiny_llama)


@pytest.mark.case("placeholders of sharded weights are told from quantised ones")
def test_a_sharded_weight_is_said_to_be_sharded(tiny_llama):
    for weight in tiny_llama.parameters():
        weight.ds_shape, weight.data = weight.shape, torch.empty(0)
    with pytest.raises(ModelError, match=r"sharded among processes[\s\S]*ZeRO-3[\s\S]*farss init"):
        find_targets(tiny_llama)


@pytest.mark.case("a pattern for target modules that never ends hangs")
@pytest.mark.parametrize("pattern", ["(([a-z._0-9]+)+)+!", "(((q_proj"])
def test_a_pattern_that_cannot_be_matched_is_refused(tiny_llama, pattern):
    for targets, exclude in (((pattern,), ()), ((), (pattern,))):
        with pytest.raises(ModelError, match=r"a pattern (takes too long|is not a regular expression)"):
            find_targets(tiny_llama, targets, exclude)
