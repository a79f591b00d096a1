"""Greedy answers in batches.

A loop of our own rather than transformers' `generate`, for three reasons: the few-shot beginning is read once for all
questions, questions that are finished leave the batch, and the result is the plain argmax path whatever the model's
generation settings say (temperature, repetition penalty).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from farss.evaluation.prefix import (
    Prefix,
    device_of,
    empty_cache,
    encode,
    inner_model,
    logits_at,
    measuring,
    read_prefix,
    sliding_window,
)
from farss.evaluation.records import Progress
from farss.evaluation.window import check_embedded, within_window
from farss.model.calibration import pad_token
from farss.model.tables import window_of

CONTEXT_TOKENS = 8
"""Of a context, enough to decode what follows it."""
LIVE_SHARE = 0.75
"""Finished questions leave the batch when at most this share of it is still being answered."""


def generate(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    prefix: str = "",
    max_new_tokens: int,
    stop: tuple[str, ...] = ("\n",),
    batch_size: int = 64,
    progress: Progress | None = None,
) -> list[str]:
    """What the model writes after each `prefix + prompt`, always taking the most probable token.

    The result does not depend on `batch_size` or on the order of prompts beyond rounding (a tie between two tokens).

    Args:
        model: a causal language model, with or without a PEFT adapter; only read.
        tokenizer: its tokenizer.
        prompts: texts to continue.
        prefix: few-shot examples common to all prompts; the model reads it once.
        max_new_tokens: most tokens written per prompt.
        stop: an answer ends before the first of these texts, or at the end-of-sequence token.
        batch_size: prompts answered together.
        progress: called with (prompts done, prompts in all).

    Returns:
        The answers, in order, without the stop text.
    """
    # A trailing space would be a token of its own that no training text has before a word (as in `continuations`).
    texts = [(prefix + prompt).rstrip(" ") for prompt in prompts]
    return generate_after(
        model,
        tokenizer,
        encode(tokenizer, texts),
        shared=bool(prefix),
        max_new_tokens=max_new_tokens,
        stop=stop,
        batch_size=batch_size,
        progress=progress,
    )


def generate_after(
    model: nn.Module,
    tokenizer: Any,
    contexts: Sequence[Sequence[int]],
    *,
    shared: bool = False,
    max_new_tokens: int,
    stop: tuple[str, ...] = (),
    batch_size: int = 64,
    progress: Progress | None = None,
) -> list[str]:
    """What the model writes after each context given as token ids; otherwise as `generate`.

    Args:
        model: a causal language model; only read.
        tokenizer: its tokenizer.
        contexts: token ids, at least one each.
        shared: the contexts have a long common beginning, which is then read once.
        max_new_tokens: most tokens written per context.
        stop: an answer ends before the first of these texts, or at the end-of-sequence token.
        batch_size: contexts continued together.
        progress: called with (contexts done, contexts in all).
    """
    if not contexts:
        return []
    check_embedded(model, contexts)
    window = window_of(inner_model(model).config)
    if window is not None:  # an answer ends where the window does, and has half of it at least
        kept = min(max_new_tokens, (window + 1) // 2) - 1
        contexts = within_window(model, contexts, [kept] * len(contexts))
    ending = Ending.of(model, tokenizer, stop, max_new_tokens, window)
    answers: dict[int, str] = {}
    with measuring(model):
        beginning = read_prefix(model, contexts) if shared else Prefix()
        for batch in _batches(model, contexts, batch_size, max_new_tokens):
            written = _answer(
                [list(contexts[i]) for i in batch], _decoder(model, beginning, pad_token(tokenizer)), ending
            )
            texts = (ending.cut(contexts[i], tokens) for i, tokens in zip(batch, written, strict=True))
            answers.update(zip(batch, texts, strict=True))
            if progress is not None:
                progress(len(answers), len(contexts))
    return [answers[i] for i in range(len(contexts))]


@dataclass(frozen=True)
class Ending:
    """When an answer is finished.

    Attributes:
        tokenizer: turns tokens into text.
        stop: texts that end an answer.
        tokens: ids that end an answer.
        most: number of tokens after which an answer ends anyway.
        window: the most tokens that the model reads, context and answer; None where nothing bounds them.
    """

    tokenizer: Any
    stop: tuple[str, ...]
    tokens: frozenset[int]
    most: int
    window: int | None = None

    @classmethod
    def of(
        cls, model: nn.Module, tokenizer: Any, stop: tuple[str, ...], most: int, window: int | None = None
    ) -> Ending:
        """The ending tokens are the tokenizer's EOS and those of the model's generation settings."""
        settings = getattr(inner_model(model), "generation_config", None)
        named = [tokenizer.eos_token_id, getattr(settings, "eos_token_id", None)]
        ids = {
            token for entry in named if entry is not None for token in (entry if isinstance(entry, list) else [entry])
        }
        return cls(tokenizer, stop, frozenset(ids), most, window)

    def reached(self, tokens: list[int], context: int = 0) -> bool:
        """Whether the newest token ends the answer to a context of so many tokens."""
        full = self.window is not None and context + len(tokens) > self.window  # it could not be read
        if full or len(tokens) >= self.most or tokens[-1] in self.tokens:
            return True
        # A token spells at least a byte, but for markers at a word's start: the tail holds any stop just completed.
        tail = tokens[-2 * max((len(text.encode()) for text in self.stop), default=1) :]
        text = self.tokenizer.decode(tail, skip_special_tokens=True)
        return any(mark in text for mark in self.stop)

    def cut(self, context: Sequence[int], tokens: list[int]) -> str:
        """The answer to a context as text, up to the first stop.

        Read together with the end of the context: by themselves, tokenizers of Llama 2's kind drop the space before the
        first word, which in Python is indentation.
        """
        before = list(context[-CONTEXT_TOKENS:])
        known, whole = (self.tokenizer.decode(ids, skip_special_tokens=True) for ids in (before, before + tokens))
        if whole.startswith(known):
            text = whole[len(known) :]
        else:  # a character of several tokens is only now complete
            text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return text[: min((at for mark in self.stop if (at := text.find(mark)) >= 0), default=len(text))]


class Decoder(Protocol):
    """A batch of texts that grow by one token a step."""

    def start(self, contexts: list[list[int]]) -> Tensor:
        """Read the contexts; logits [b, vocabulary] of the first new token."""
        ...

    def step(self, tokens: Tensor) -> Tensor:
        """Append `tokens` [b]; logits [b, vocabulary] of the next."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows [b'] only."""
        ...


def _answer(contexts: list[list[int]], decoder: Decoder, ending: Ending) -> list[list[int]]:
    written: list[list[int]] = [[] for _ in contexts]
    rows = list(range(len(contexts)))  # the answer each row of the batch belongs to
    live = set(rows)
    logits = decoder.start(contexts)
    while live:
        tokens = logits.argmax(-1)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            if row in live:
                written[row].append(token)
                if ending.reached(written[row], len(contexts[row])):
                    live.discard(row)
        if not live:
            break
        if len(live) <= LIVE_SHARE * len(rows):
            kept = torch.tensor([i for i, row in enumerate(rows) if row in live], device=tokens.device)
            decoder.keep(kept)
            tokens, rows = tokens[kept], [row for row in rows if row in live]
        logits = decoder.step(tokens)
    return written


def _batches(
    model: nn.Module, contexts: Sequence[Sequence[int]], batch_size: int, max_new_tokens: int
) -> Iterator[list[int]]:
    """Indices of each batch, longest first.

    Padding inside a batch stands between a prompt and its answer. It is masked, but counts as distance for
    sliding-window layers; where a window could be exceeded, only prompts of equal length are answered together.
    """
    lengths = [len(context) for context in contexts]
    window = sliding_window(model)
    exact = window is None or max(lengths) + max_new_tokens <= window
    batch: list[int] = []
    for i in sorted(range(len(contexts)), key=lambda i: (-lengths[i], i)):
        if batch and (len(batch) == batch_size or (not exact and lengths[i] != lengths[batch[0]])):
            yield batch
            batch = []
        batch.append(i)
    yield batch


def _decoder(model: nn.Module, shared: Prefix, pad_id: int) -> Decoder:
    if empty_cache(model) is None:
        return _Rereading(model, pad_id)
    return _Cached(model, shared, pad_id)


def _padded(rows: list[list[int]], pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and last real position, all [b, t], padded on the right."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [pad_id] * (width - len(row)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])[:, None]
    places = torch.arange(width)[None]
    return ids, (places < lengths).long(), places == lengths - 1


class _Cached:
    """The usual decoder: keys and values of everything read so far are kept."""

    def __init__(self, model: nn.Module, shared: Prefix, pad_id: int) -> None:
        self.model, self.shared, self.pad_id, self.device = model, shared, pad_id, device_of(model)
        self.cache: DynamicCache | None = None
        self.mask = self.positions = torch.empty(0)
        window = window_of(inner_model(model).config)
        self.last = None if window is None else window - 1

    def start(self, contexts: list[list[int]]) -> Tensor:
        begun = len(self.shared)
        ids, mask, last = (part.to(self.device) for part in _padded([c[begun:] for c in contexts], self.pad_id))
        self.cache = self.shared.repeated(len(contexts)) or empty_cache(self.model)
        self.mask = torch.cat([mask.new_ones(len(contexts), begun), mask], 1)
        self.positions = self.mask.sum(1, keepdim=True)
        spread = torch.arange(begun, begun + ids.shape[1], device=self.device).expand(len(contexts), -1)
        return self._forward(ids, spread, last)

    def step(self, tokens: Tensor) -> Tensor:
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], 1)
        logits = self._forward(tokens[:, None], self.positions, torch.ones_like(tokens[:, None], dtype=torch.bool))
        self.positions = self.positions + 1
        if self.last is not None:
            self.positions = self.positions.clamp(max=self.last)  # finished rows of a batch go on unread
        return logits

    def keep(self, rows: Tensor) -> None:
        assert self.cache is not None
        self.cache.batch_select_indices(rows)
        self.mask, self.positions = self.mask[rows], self.positions[rows]

    def _forward(self, ids: Tensor, positions: Tensor, last: Tensor) -> Tensor:
        return logits_at(
            self.model,
            last,
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        )


class _Rereading:
    """For architectures whose state cannot be copied: every step reads the whole text again."""

    def __init__(self, model: nn.Module, pad_id: int) -> None:
        self.model, self.pad_id, self.device = model, pad_id, device_of(model)
        self.texts: list[list[int]] = []
        self.window = window_of(inner_model(model).config)

    def start(self, contexts: list[list[int]]) -> Tensor:
        self.texts = [list(context) for context in contexts]
        return self._forward()

    def step(self, tokens: Tensor) -> Tensor:
        for text, token in zip(self.texts, tokens.tolist(), strict=True):
            text.append(token)
        if self.window is not None:  # finished rows of a batch go on unread
            self.texts = [text[: self.window] for text in self.texts]
        return self._forward()

    def keep(self, rows: Tensor) -> None:
        self.texts = [self.texts[i] for i in rows.tolist()]

    def _forward(self) -> Tensor:
        ids, mask, last = (part.to(self.device) for part in _padded(self.texts, self.pad_id))
        return logits_at(self.model, last, input_ids=ids, attention_mask=mask, use_cache=False)
