"""Tiny models of three layouts, plans made by hand, and a few training steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from farss.adapters.layers import weight_shape
from farss.model.plan import Plan, TargetPlan
from farss.model.sources import fingerprint

VOCABULARY = 64
SPREAD = 0.1  # wide enough for logits of order one, so that an absolute tolerance means something


def make_llama(seed: int = 0) -> nn.Module:
    """Grouped-query attention, gated MLP, no biases."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=SPREAD,
    )
    return LlamaForCausalLM(config).eval()


def make_gpt2(seed: int = 0) -> nn.Module:
    """Conv1D linears with biases, stored transposed."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=24,
        n_layer=2,
        n_head=2,
        n_positions=64,
        embd_pdrop=0,
        attn_pdrop=0,
        resid_pdrop=0,
        initializer_range=SPREAD,
    )
    model = GPT2LMHeadModel(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(std=0.1)
    return model


def make_qwen2(seed: int = 0) -> nn.Module:
    """Biases on the query, key and value maps."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=SPREAD,
    )
    model = Qwen2ForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(std=0.1)
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {"llama": make_llama, "gpt2": make_gpt2, "qwen2": make_qwen2}


def make_plan(model: nn.Module, *, base="reference", initialisation="spectral", low=False, scale=1.0, **fields) -> Plan:
    """Every linear of the blocks, with ranks that differ from module to module."""
    rows = []
    for name, module in model.named_modules():
        shape = weight_shape(module)
        if shape is None or name == "lm_head":
            continue
        k, rank = min(shape), 2 + len(rows) % 3
        indices = tuple(range(k - rank, k)) if low else tuple(range(rank))
        region = "shallow" if low else "deep"
        chosen = indices if initialisation == "spectral" else None
        rows.append(TargetPlan(name, 0, region, shape, rank, scale * (1 + len(rows) % 2), chosen))
    return Plan(
        method="hand",
        initialisation=initialisation,
        base=base,
        model_fingerprint=fingerprint(model),
        settings={"seed": 0, "route": "gesdd"},
        targets=tuple(rows),
        **fields,
    )


def tokens(seed: int = 0, shape: tuple[int, int] = (2, 12)) -> torch.Tensor:
    return torch.randint(VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def logits(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(input_ids=ids).logits


def train(model: nn.Module, steps: int = 4, rate: float = 1e-2) -> None:
    """A few AdamW steps on random tokens, weight decay included, over everything that requires gradients."""
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.1)
    for step in range(steps):
        ids = tokens(100 + step)
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


@pytest.fixture
def kit():
    """The helpers of this file, as one object that tests can take."""

    class Kit:
        models = MODELS
        plan = staticmethod(make_plan)
        tokens = staticmethod(tokens)
        logits = staticmethod(logits)
        train = staticmethod(train)

    return Kit


@pytest.fixture(params=sorted(MODELS))
def model(request) -> nn.Module:
    return MODELS[request.param]()


@pytest.fixture
def llama() -> nn.Module:
    return make_llama()
