"""What a model has a row for: the token ids of its embeddings and the positions of its table."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SAID = {"bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "cls_token_id", "decoder_start_token_id"}
"""Ids that a configuration names and that stand for themselves in a text."""


def embedding_rows(model: Any) -> int:
    """How many token ids have an embedding; a configuration of several parts need not say it."""
    return int(model.get_input_embeddings().weight.shape[0])


def placeholders(config: Any) -> set[int]:
    """Ids that stand for an image or a sound and are no words, as the configuration names them."""
    named = {
        value
        for key, value in vars(config).items()
        if key.endswith(("_token_id", "_token_index")) and key not in SAID and isinstance(value, int)
    }
    return {value for value in named if value >= 0}


def random_words(model: Any, shape: tuple[int, int], *, seed: int) -> Tensor:
    """Token ids [b, t] on the model's device, drawn from `seed` among those that have an embedding and are words."""
    rows, apart = embedding_rows(model), placeholders(model.config)
    ids = torch.randint(rows, shape, generator=torch.Generator().manual_seed(seed))
    if apart:
        word = next(token for token in range(rows) if token not in apart)
        ids = torch.where(torch.isin(ids, torch.tensor(sorted(apart))), word, ids)
    return ids.to(model.get_input_embeddings().weight.device)
