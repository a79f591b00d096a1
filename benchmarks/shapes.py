"""Models of well-known shapes with random weights, written to disk once, block by block."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, PreTrainedTokenizerFast

from farss.model.calibration import Example
from farss.storage import new_folder, write_tensors

SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 176, "num_attention_heads": 4, "num_hidden_layers": 4},
    "sheared-1.3b": {
        "hidden_size": 2048,
        "intermediate_size": 5504,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
    },
    "llama2-7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
    },
}
VOCABULARY = 32000
SPREAD = 0.02
"""Standard deviation of the weights."""


def random_model(shape: str, layers: int, cache: Path) -> Path:
    """The folder of a bfloat16 Llama of this shape, `layers` deep; each block is a file, and only one is in memory."""
    folder = cache / "shapes" / f"{shape}-{layers}"
    if (folder / "config.json").is_file():
        return folder
    config = LlamaConfig(
        **{**SHAPES[shape], "num_hidden_layers": layers}, vocab_size=VOCABULARY, dtype="bfloat16", bos_token_id=1
    )
    with new_folder(folder) as place:
        where: dict[str, str] = {}
        for number, (name, sizes) in enumerate(_files(config).items()):
            generator = torch.Generator().manual_seed(number)
            tensors = {key: _weight(key, size, generator) for key, size in sizes.items()}
            write_tensors(place / name, tensors, {"format": "pt"})
            where |= dict.fromkeys(tensors, name)
        (place / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
        config.architectures = ["LlamaForCausalLM"]
        config.save_pretrained(place)
        _tokenizer().save_pretrained(place)
    return folder


def random_examples(rows: int, length: int) -> list[Example]:
    """Rows of random tokens, the second half of each supervised."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, VOCABULARY, (rows, length), generator=generator).tolist()
    return [Example(tuple(row[: length // 2]), tuple(row[length // 2 :])) for row in ids]


def _weight(name: str, size: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    if len(size) == 1:  # the weight of a norm
        return torch.ones(size, dtype=torch.bfloat16)
    return torch.randn(size, generator=generator).mul_(SPREAD).to(torch.bfloat16)


def _files(config: Any) -> dict[str, dict[str, tuple[int, ...]]]:
    """File name -> tensor name -> shape."""
    d, f = config.hidden_size, config.intermediate_size
    block: dict[str, tuple[int, ...]] = {f"self_attn.{part}_proj.weight": (d, d) for part in "qkvo"}
    block |= {"mlp.gate_proj.weight": (f, d), "mlp.up_proj.weight": (f, d), "mlp.down_proj.weight": (d, f)}
    block |= {"input_layernorm.weight": (d,), "post_attention_layernorm.weight": (d,)}
    found = {
        "outside.safetensors": {
            "model.embed_tokens.weight": (VOCABULARY, d),
            "lm_head.weight": (VOCABULARY, d),
            "model.norm.weight": (d,),
        }
    }
    for layer in range(config.num_hidden_layers):
        found[f"block-{layer:03d}.safetensors"] = {f"model.layers.{layer}.{k}": size for k, size in block.items()}
    return found


def _tokenizer() -> PreTrainedTokenizerFast:
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "a": 3}
    plain = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
