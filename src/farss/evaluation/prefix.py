"""The beginning that all questions of a set share, read by the model once: its key-value cache, reused per batch."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from farss.adapters.layers import base_of
from farss.errors import ModelError
from farss.model import logits
from farss.model.modes import evaluating


@contextmanager
def measuring(model: nn.Module) -> Iterator[None]:
    """Run a block in evaluation mode and without gradients; the model's mode is restored afterwards."""
    with evaluating(model), torch.inference_mode():
        yield


def inner_model(model: Any) -> Any:
    """The transformers model inside a PEFT model, or the model itself, whose positions are those of its tokens.

    Raises:
        ModelError: for an adapter that adds virtual tokens, which shift every position.
    """
    config = getattr(model, "active_peft_config", None)
    if config is not None and config.is_prompt_learning:
        raise ModelError(
            "adapters that add virtual tokens cannot be measured",
            got=str(config.peft_type),
            expected="an adapter on the weights, such as LoRA",
        )
    return base_of(model)


def empty_cache(model: Any) -> DynamicCache | None:
    """A fresh key-value cache of the model's layout, or None if its architecture keeps another kind of state.

    Only caches made of full and sliding-window attention layers can be copied per question; recurrent, convolutional
    and encoder-decoder models get None and are given whole sequences.
    """
    base = inner_model(model)
    takes_cache = "past_key_values" in inspect.signature(base.forward).parameters
    config = getattr(base, "config", None)
    if not takes_cache or config is None or base._is_stateful or config.is_encoder_decoder:
        return None
    if not base._supports_default_dynamic_cache():
        return None
    cache = DynamicCache(config=config)
    plain = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)
    return cache if plain else None


def sliding_window(model: Any) -> int | None:
    """The narrowest attention window of the model, in tokens; None if every layer sees everything."""
    cache = empty_cache(model)
    layers = cache.layers if cache is not None else []
    windows = [layer.sliding_window for layer in layers if isinstance(layer, DynamicSlidingWindowLayer)]
    return min(windows, default=None)


@dataclass(frozen=True)
class Prefix:
    """Token ids that every sequence of a set begins with, and the keys and values the model computed for them.

    Attributes:
        ids: the shared ids; empty if nothing is shared or the model's state cannot be copied.
        cache: batch-of-one cache after reading `ids`; None if `ids` is empty.
    """

    ids: tuple[int, ...] = ()
    cache: DynamicCache | None = None

    def __len__(self) -> int:
        """Number of shared tokens."""
        return len(self.ids)

    def repeated(self, rows: int) -> DynamicCache | None:
        """A cache for a batch of `rows` sequences, independent of this one; None if nothing is cached."""
        if self.cache is None:
            return None
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(rows)
        return cache


def read_prefix(model: nn.Module, contexts: Sequence[Sequence[int]]) -> Prefix:
    """The longest common beginning of all contexts, read by the model once.

    Found in token ids, so it is exact however the tokenizer joins the few-shot text and the questions. The last token
    of every context is left out: its prediction is needed per question.

    Args:
        model: a causal language model, in evaluation mode.
        contexts: token ids of each question with everything before it, at least one id each.
    """
    first, last = min(map(tuple, contexts)), max(map(tuple, contexts))  # what these two share, all between them share
    differing = (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    shared = min(next(differing, len(first)), min(map(len, contexts)) - 1)
    cache = empty_cache(model)
    if shared < 1 or cache is None:
        return Prefix()
    ids = tuple(contexts[0][:shared])
    inputs = torch.tensor([ids], device=device_of(model))
    end = torch.zeros_like(inputs, dtype=torch.bool)
    end[:, -1] = True
    logits_at(model, end, input_ids=inputs, past_key_values=cache, use_cache=True)
    return Prefix(ids, cache)


def logits_at(model: Any, rows: Tensor, **inputs: Any) -> Tensor:
    """`model.logits.logits_at` of the transformers model inside.

    Args:
        model: a causal language model; only read.
        rows: [b, t] bool, the positions to predict from.
        inputs: of the model's forward; `position_ids` are left out for architectures without them.
    """
    base = inner_model(model)
    if "position_ids" not in inspect.signature(base.forward).parameters:
        inputs.pop("position_ids", None)
    return logits.logits_at(model, base.get_output_embeddings(), rows, **inputs)


def device_of(model: nn.Module) -> torch.device:
    """Where the model expects token ids."""
    return model.get_input_embeddings().weight.device  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text; BOS once where the tokenizer adds it, never twice where a text already begins with it.

    Whether it adds one is the tokenizer's own property; what one text begins with says nothing about the others.
    """
    opened = [bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token) for text in texts]
    ids: list[list[int]] = [[]] * len(texts)
    for begun in (False, True):
        places = [place for place, opens in enumerate(opened) if opens == begun]
        if places:
            found = tokenizer([texts[place] for place in places], add_special_tokens=not begun)["input_ids"]
            for place, encoded in zip(places, found, strict=True):
                ids[place] = encoded
    return ids
