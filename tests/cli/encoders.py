"""An encoder of a few thousand weights on disk, rows of GLUE beside it, and the command line that fine-tunes it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch

METHODS = "lora,farss,full"


def reviews(count: int, seed: int) -> list[dict]:
    """Two letters whose order tells the label, among others: learned, but not by the commonest class."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        label = draw.randrange(2)
        filler = "".join(draw.choice("abc ") for _ in range(draw.randrange(4, 12)))
        rows.append({"sentence": f"{'+' if label else '-'}{filler}{'+' if label else '-'}", "label": label})
    return rows


def save_encoder(folder: Path, tokenizer: Any, dtype: torch.dtype = torch.float32) -> Path:
    """A BERT without a head, three layers wide 32, stored in `dtype`."""
    from transformers import BertConfig, BertModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=64,
            initializer_range=0.1,
            pad_token_id=0,
        )
        BertModel(config).to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def arguments(place: Path, out: str, methods: str = METHODS, **flags: object) -> list[str]:
    chosen = {
        "--model": place / "model",
        "--data-dir": place / "data",
        "--tasks": "sst2",
        "--methods": methods,
        "--lr": "5e-3",
        "--epochs": 3,
        "--max-length": 32,
        "--rank": 4,
        "--shallow-layers": 1,
        "--calibration-rows": 16,
        "--set": "train.micro_batch_size=null",
        "--out": place / out,
    } | {f"--{name.replace('_', '-')}": value for name, value in flags.items()}
    return ["glue", *(str(part) for pair in chosen.items() for part in pair)]
