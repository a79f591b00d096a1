"""Tiny models and tokenizers of both attention layouts, and a plain way to score a text."""

from __future__ import annotations

import math

import pytest
import torch

VOCABULARY = 100  # four special tokens, newline and 95 printable characters: that of `tiny_tokenizer`
WINDOW = 16


@pytest.fixture(scope="session")
def bos_tokenizer(tiny_tokenizer):
    """The tiny tokenizer, adding BOS in front of every text as Gemma's does."""
    import copy

    from tokenizers.processors import TemplateProcessing

    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)]
    )
    return tokenizer


@pytest.fixture
def tiny_gemma3():
    """Gemma 3 layout: two sliding-window layers (16 tokens) to one that sees everything."""
    from transformers import AutoModelForCausalLM, Gemma3TextConfig

    config = Gemma3TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        max_position_embeddings=512,
        initializer_range=0.3,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.fixture
def tiny_mamba():
    """A recurrent model, whose state is no key-value cache."""
    from transformers import AutoModelForCausalLM, MambaConfig

    config = MambaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        state_size=4,
        initializer_range=0.3,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.fixture(params=["tiny_llama", "tiny_gqa", "tiny_gpt2", "tiny_gemma3", "tiny_mamba"])
def any_model(request):
    """Each layout in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def by_hand():
    """Log probabilities and greedy tokens of `target` after `context`, one forward pass, no batch, no cache."""

    def score(model, context: list[int], target: list[int]) -> tuple[list[float], list[bool]]:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([context + target])).logits[0].double()
        found, greedy = [], []
        for step, token in enumerate(target):
            row = logits[len(context) + step - 1]
            normaliser = math.log(sum(math.exp(v) for v in (row - row.max()).tolist())) + float(row.max())
            found.append(float(row[token]) - normaliser)
            greedy.append(int(row.argmax()) == token)
        return found, greedy

    return score


@pytest.fixture
def greedy_by_hand():
    """The argmax path after `context`, whole sequences every step."""

    def write(model, context: list[int], steps: int, ends: tuple[int, ...]) -> list[int]:
        ids = list(context)
        for _ in range(steps):
            with torch.no_grad():
                token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            ids.append(token)
            if token in ends:
                break
        return ids[len(context) :]

    return write
