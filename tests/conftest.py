"""Tiny models, a tiny tokenizer and the way to the real data."""

from __future__ import annotations

import os
import string
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1]))  # for helpers that several folders of tests share
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")
CHARACTERS = "\n" + string.printable[:95]
VOCABULARY = len(SPECIAL) + len(CHARACTERS)
HIDDEN, LAYERS, HEADS = 32, 3, 4
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def build(config, seed: int = 0):
    """A float32 causal language model with weights drawn from `seed`, in evaluation mode."""
    import torch
    from transformers import AutoModelForCausalLM

    config.initializer_range = 0.1  # large enough that the outputs are far from uniform
    config.pad_token_id, config.eos_token_id, config.bos_token_id = 0, 1, 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def sizes(**more) -> dict:
    """The settings that Llama and Qwen have in common."""
    common = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": 512,
    }
    return common | more


@pytest.fixture
def tiny_llama():
    """Llama layout, three layers, hidden size 32."""
    from transformers import LlamaConfig

    return build(LlamaConfig(**sizes()))


@pytest.fixture
def tiny_gqa():
    """Llama layout with two key-value heads for four query heads, and tied embeddings."""
    from transformers import LlamaConfig

    return build(LlamaConfig(**sizes(num_key_value_heads=2, tie_word_embeddings=True)))


@pytest.fixture
def tiny_qwen():
    """Qwen2 layout: query, key and value projections have a bias, drawn at random."""
    import torch
    from transformers import Qwen2Config

    model = build(Qwen2Config(**sizes(num_key_value_heads=2)))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if name.endswith("_proj.bias"):  # zero by default, which would hide a lost bias
            parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def tiny_gpt2():
    """GPT-2 layout: `Conv1D` weights stored as [in, out], fused query-key-value."""
    from transformers import GPT2Config

    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=HIDDEN,
        n_layer=LAYERS,
        n_head=HEADS,
        n_positions=512,
        bos_token_id=2,
        eos_token_id=1,
    )
    return build(config)


@pytest.fixture
def tiny_gemma3():
    """Gemma-3 layout: scaled embeddings, normalised queries and keys, sliding attention in part, capped logits."""
    import torch
    from transformers import AutoModelForCausalLM, Gemma3TextConfig

    config = Gemma3TextConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        final_logit_softcapping=20.0,
        initializer_range=0.1,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """One token per printable ASCII character; no token is added on its own; decodes to exactly what was encoded."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: index for index, token in enumerate((*SPECIAL, *CHARACTERS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets, laid out as NAME/SPLIT.jsonl.gz; the test is skipped where there is none."""
    named = os.environ.get("FARSS_TEST_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real data sets are not here (FARSS_TEST_DATA names their folder)")
    return folder


@pytest.fixture(scope="session")
def punkt_tab() -> Path:
    """NLTK's English sentence tokenizer, where a package carries it; the test is skipped where none does."""
    import importlib.util

    for package, inside in (("llama_index.core", "_static/nltk_cache"),):
        found = importlib.util.find_spec(package.partition(".")[0]) and importlib.util.find_spec(package)
        folder = Path(found.origin).parent / inside / "tokenizers" / "punkt_tab" if found and found.origin else None
        if folder is not None and (folder / "english").is_dir():
            return folder
    pytest.skip("NLTK's punkt_tab is not here")
