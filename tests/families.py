"""One tiny random model of each family that people fine-tune, as a folder: what several tests look at them all for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

WORDS = 100  # as many as the tiny tokenizer of tests/conftest.py has
IDS = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}
SIZES = {"vocab_size": WORDS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, **HEADS, **IDS}
PLAIN = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
EXPERTS = {"num_experts_per_tok": 2}
FUSED = {"num_experts": 4, "moe_intermediate_size": 24, **EXPERTS}
GPT = {"vocab_size": WORDS, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128, **IDS}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
LINEAR = {"linear_num_value_heads": 2, "linear_num_key_heads": 1, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
MIXED = {"layer_types": ["linear_attention", "full_attention"]}
SEES = {"hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 16}


def _gemma3_with_vision(depth: int = 3) -> Any:
    """Its vision tower has more blocks than its language model."""
    return transformers.Gemma3Config(
        text_config=SIZES | GEMMA,
        vision_config=SEES | {"num_hidden_layers": depth},
        mm_tokens_per_image=4,
        image_token_index=97,
        boi_token_index=98,
        eoi_token_index=99,
        **IDS,
    )


def _qwen3_5_with_vision() -> Any:
    sees = {"depth": 1, "hidden_size": 24, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32}
    sees |= {"patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 16}
    ids = {"image_token_id": 97, "video_token_id": 98, "vision_start_token_id": 95, "vision_end_token_id": 96}
    return transformers.Qwen3_5Config(
        text_config=SIZES | {"head_dim": 16} | LINEAR | MIXED, vision_config=sees, tie_word_embeddings=False, **ids
    )


def _llava() -> Any:
    return transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**SIZES),
        vision_config=transformers.CLIPVisionConfig(**SEES, num_hidden_layers=2),
        image_token_index=97,
    )


FAMILIES: dict[str, Callable[[], Any]] = {
    "Llama": lambda: transformers.LlamaConfig(**SIZES),
    "Mistral": lambda: transformers.MistralConfig(**SIZES),
    "Qwen2": lambda: transformers.Qwen2Config(**SIZES),
    "Qwen3": lambda: transformers.Qwen3Config(**SIZES, head_dim=16),
    "Gemma 2": lambda: transformers.Gemma2Config(**SIZES, **GEMMA),
    "Gemma 3": lambda: transformers.Gemma3TextConfig(**SIZES, **GEMMA),
    "Phi": lambda: transformers.PhiConfig(**SIZES),
    "Phi-3": lambda: transformers.Phi3Config(**SIZES),
    "GPT-2": lambda: transformers.GPT2Config(**GPT),
    "GPT-J": lambda: transformers.GPTJConfig(**GPT, rotary_dim=8),
    "GPT-NeoX (Pythia)": lambda: transformers.GPTNeoXConfig(**PLAIN),
    "OPT": lambda: transformers.OPTConfig(**PLAIN, ffn_dim=48, word_embed_proj_dim=32),
    "BLOOM": lambda: transformers.BloomConfig(vocab_size=WORDS, hidden_size=32, n_layer=2, n_head=2, **IDS),
    "Falcon": lambda: transformers.FalconConfig(**PLAIN, alibi=False, multi_query=True),
    "StableLM": lambda: transformers.StableLmConfig(**SIZES),
    "OLMo 2": lambda: transformers.Olmo2Config(**SIZES),
    "Cohere": lambda: transformers.CohereConfig(**SIZES),
    "LFM2": lambda: transformers.Lfm2Config(**SIZES, layer_types=["conv", "full_attention"]),
    "Mamba": lambda: transformers.MambaConfig(
        vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, state_size=8, **IDS
    ),
    "Mixtral": lambda: transformers.MixtralConfig(**SIZES, **EXPERTS, num_local_experts=4),
    "Qwen2-MoE": lambda: transformers.Qwen2MoeConfig(**SIZES, **FUSED, shared_expert_intermediate_size=24),
    "Qwen3-MoE": lambda: transformers.Qwen3MoeConfig(**SIZES, **FUSED, head_dim=16, decoder_sparse_step=1),
    "Qwen3-Next": lambda: transformers.Qwen3NextConfig(
        **SIZES, **FUSED, **LINEAR, **MIXED, head_dim=16, shared_expert_intermediate_size=24
    ),
    "OLMoE": lambda: transformers.OlmoeConfig(**SIZES, **EXPERTS, num_experts=4),
    "Granite-MoE": lambda: transformers.GraniteMoeConfig(**SIZES, **EXPERTS, num_local_experts=4),
    "GPT-OSS": lambda: transformers.GptOssConfig(**SIZES, **EXPERTS, head_dim=16, num_local_experts=4),
    "DeepSeek-V3": lambda: transformers.DeepseekV3Config(
        **PLAIN,
        **EXPERTS,
        **LATENT,
        num_key_value_heads=2,
        n_routed_experts=4,
        n_group=2,
        topk_group=1,
        moe_intermediate_size=24,
        first_k_dense_replace=1,
    ),
    "Gemma 3 with vision": _gemma3_with_vision,
    "Qwen3.5 with vision": _qwen3_5_with_vision,
    "LLaVA": _llava,
}
SEEING = ("Gemma 3 with vision", "Qwen3.5 with vision", "LLaVA")


def make(family: str, seed: int = 0) -> Any:
    """A float32 model of `family` in evaluation mode, by the class that its checkpoints are saved by."""
    architecture = AutoModelForImageTextToText if family in SEEING else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = architecture.from_config(FAMILIES[family](), dtype=torch.float32).eval()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim > 1:  # wide enough apart that outputs differ
                    weight.mul_(4)
            for name, buffer in model.named_buffers():
                if name.endswith("correction_bias"):
                    buffer.copy_(torch.rand_like(buffer))
    return model


def saved(family: str, folder: Path, tokenizer: Any) -> Path:
    """The folder, holding the model of `family` and a tokenizer."""
    make(family).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
