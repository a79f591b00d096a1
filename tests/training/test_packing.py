"""Packed rows: the same training as rows of their own, or a refusal where they would see each other."""

from __future__ import annotations

import pytest
import torch

from farss.errors import ModelError
from farss.model.calibration import Example
from farss.training.batching import PaddedBatch
from farss.training.loss import output_head, summed_loss
from farss.training.packing import PackedBatch, check_packing
from farss.training.sft import train

from .conftest import largest_difference, weights


def gradients(model, batch) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = summed_loss(model, output_head(model), batch)
    loss.backward()
    return float(loss.detach()), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_rows_are_laid_end_to_end_and_count_their_positions_anew():
    turns = Example.marked([21, 22, 23, 24], [True, False, False, True])
    batch = PackedBatch()([Example((5, 6), (7, 8)), turns])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 21, 22, 23, 24]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2, 3]]
    assert batch["labels"].tolist() == [[-100, -100, 7, 8, -100, -100, -100, 24]]
    assert "attention_mask" not in batch


@pytest.mark.case("packing without leaks")
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gpt2", "tiny_qwen"])
def test_loss_and_gradients_are_those_of_rows_of_their_own(request, rows, family, attention):
    model = request.getfixturevalue(family).double().eval()
    model.set_attn_implementation(attention)
    padded, expected = gradients(model, PaddedBatch(0)(rows))
    packed, found = gradients(model, PackedBatch()(rows))
    assert packed == pytest.approx(padded, rel=1e-7)
    assert largest_difference(expected, found) < 1e-6 * max(float(g.abs().max()) for g in expected.values())


@pytest.mark.case("packing without leaks")
@pytest.mark.parametrize("micro", [1, 4])
def test_a_packed_training_is_the_padded_one(tiny_llama, tiny_tokenizer, rows, settings, with_lora, micro):
    results, reports = [], []
    for packing in (False, True):
        model = with_lora(tiny_llama)
        config = settings(packing=packing, micro_batch_size=micro)
        reports.append(train(model, tiny_tokenizer, rows, config, None))
        results.append(weights(model, trainable=True))
        tiny_llama = model.unload()
    assert [loss for _, loss in reports[1].curve] == pytest.approx([loss for _, loss in reports[0].curve], rel=1e-5)
    assert reports[0].tokens == reports[1].tokens and largest_difference(*results) < 1e-4


def small(kind: str):
    """A model of a few thousand weights whose packed rows are a question."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {
        "gemma3_text": {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"], "head_dim": 8},
        "mistral": {"sliding_window": 4, "head_dim": 8},
        "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
        "mamba": {"state_size": 4},
        "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
        "qwen3_next": {
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
            "head_dim": 8,
        },
    }
    usual = {
        "vocab_size": 96,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.1,
        "pad_token_id": 0,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(usual | sizes[kind]))).eval()


@pytest.mark.parametrize("kind", ["gemma3_text", "mistral", "mixtral"])
def test_windows_and_experts_keep_packed_rows_apart(kind, rows):
    check_packing(small(kind), rows, 0)


@pytest.mark.case("packing without leaks")
@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("mamba", "the model carries a state from token to token"),
        ("qwen3_next", "the model carries a state from token to token"),
        ("lfm2", "packed rows see each other in this model"),
    ],
)
def test_models_in_which_packed_rows_see_each_other_are_refused(kind, what, rows):
    with pytest.raises(ModelError, match=what) as caught:
        check_packing(small(kind), rows, 0)
    assert "leave train.packing out" in str(caught.value)


def test_a_model_that_drops_the_positions_is_refused_and_left_as_it_was(tiny_llama, rows, settings, tiny_tokenizer):
    forward = tiny_llama.forward

    def without_positions(input_ids=None, attention_mask=None, position_ids=None, **kwargs):
        return forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs)

    tiny_llama.forward = without_positions
    tiny_llama.train()
    with pytest.raises(ModelError, match="packed rows see each other"):
        train(tiny_llama, tiny_tokenizer, rows, settings(packing=True), None, trains="weights")
    assert tiny_llama.training and all(p.requires_grad for p in tiny_llama.parameters())
