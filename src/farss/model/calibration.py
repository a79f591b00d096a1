"""Calibration and training rows as token ids, and padded batches of them with masks and labels."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from farss.errors import DataError

UNSUPERVISED = -100
"""Label of a position that the loss ignores (the convention of PyTorch and transformers)."""

Formatter = Callable[[Mapping[str, Any]], tuple[str, str]]

Row = TypeVar("Row", bound=Sized)


@dataclass(frozen=True)
class Example:
    """One row as token ids: the prompt, which is only read, and the response, which is learned."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]

    def __len__(self) -> int:
        """Number of tokens, prompt and response."""
        return len(self.prompt_ids) + len(self.response_ids)


@dataclass(frozen=True)
class Batch:
    """Padded sequences.

    Attributes:
        input_ids: [b, t] int64.
        attention_mask: [b, t] int64, 1 at real tokens and 0 at padding.
        labels: [b, t] int64, the token itself where supervised and -100 elsewhere (not shifted).
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor

    @classmethod
    def of(cls, batch: Batch | Mapping[str, Tensor]) -> Batch:
        """A batch from a mapping with the three tensors, as data loaders give it; without a mask, nothing is padding.

        Raises:
            DataError: if ids or labels are missing, or the shapes differ.
        """
        if isinstance(batch, Batch):
            return batch
        missing = [key for key in ("input_ids", "labels") if key not in batch]
        if missing:
            raise DataError("a batch lacks a tensor", expected="input_ids, attention_mask, labels", got=list(batch))
        ids, labels = torch.as_tensor(batch["input_ids"]), torch.as_tensor(batch["labels"])
        mask = torch.as_tensor(batch["attention_mask"]) if "attention_mask" in batch else torch.ones_like(ids)
        if ids.ndim != 2 or not ids.shape == mask.shape == labels.shape:
            shapes = [tuple(part.shape) for part in (ids, mask, labels)]
            raise DataError("the tensors of a batch do not fit together", expected="three times [b, t]", got=shapes)
        return cls(ids.long(), mask.long(), labels.long())

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`."""
        return Batch(self.input_ids.to(device), self.attention_mask.to(device), self.labels.to(device))

    @property
    def tokens(self) -> int:
        """Number of real tokens."""
        return int(self.attention_mask.sum())

    @property
    def supervised(self) -> Tensor:
        """[b, t] bool, True at positions whose *next* token is supervised: where the loss reads a prediction."""
        predicts = torch.zeros_like(self.labels, dtype=torch.bool)
        predicts[:, :-1] = self.labels[:, 1:] != UNSUPERVISED
        return predicts


def encode_rows(
    rows: Iterable[Mapping[str, Any]], tokenizer: Any, formatter: Formatter, max_length: int
) -> list[Example]:
    """The rows as token ids, response closed by the end-of-sequence token, at most `max_length` tokens each.

    Prompt and response are tokenised apart, so a prompt has the same ids whatever follows it. Where a row is too long
    the response loses its end; a row that keeps no response token is left out with one warning for all.

    Args:
        rows: mappings that `formatter` understands.
        tokenizer: a transformers tokenizer; its own rule decides whether a prompt starts with BOS.
        formatter: row -> (prompt text, response text).
        max_length: most tokens of a row.

    Raises:
        DataError: if there are no rows, the tokenizer has no EOS, or no row keeps a response token.
    """
    return encode_kept_rows(rows, tokenizer, formatter, max_length)[1]


def encode_kept_rows(
    rows: Iterable[Mapping[str, Any]], tokenizer: Any, formatter: Formatter, max_length: int
) -> tuple[list[int], list[Example]]:
    """As `encode_rows`, with the positions of the rows that were not left out.

    Returns:
        The positions in `rows`, ascending, and the examples made of them.

    Raises:
        DataError: as `encode_rows`.
    """
    eos = tokenizer.eos_token_id
    if eos is None:
        raise DataError(
            "the tokenizer has no end-of-sequence token",
            where=getattr(tokenizer, "name_or_path", type(tokenizer).__name__),
            do="set `tokenizer.eos_token` to the token that ends an answer",
        )
    texts = [formatter(row) for row in rows]
    if not texts:
        raise DataError("the data set has no rows", expected="at least one row")
    encoded = [_encode(prompt, response, tokenizer, eos, max_length) for prompt, response in texts]
    kept = [number for number, example in enumerate(encoded) if example.response_ids]
    dropped = len(encoded) - len(kept)
    if not kept:
        raise DataError(
            "no row keeps a response token after truncation",
            expected=f"prompts shorter than {max_length} tokens",
            got=f"shortest prompt: {min(len(example.prompt_ids) for example in encoded)} tokens",
            do="raise max_length or use rows with shorter prompts",
        )
    if dropped:
        warnings.warn(
            f"{dropped} of {len(encoded)} rows have no response token within {max_length} tokens and are left out",
            stacklevel=3,
        )
    return kept, [encoded[number] for number in kept]


def encode_prompts(prompts: Iterable[str], tokenizer: Any, max_length: int) -> list[Example]:
    """Texts that are only read, as token ids without a response, at most `max_length` tokens each.

    Args:
        prompts: the texts.
        tokenizer: a transformers tokenizer; its own rule decides whether a text starts with BOS.
        max_length: most tokens of a text; the rest is cut.

    Raises:
        DataError: if there are no texts, or one has no token.
    """
    examples = [Example(tuple(_prompt_ids(text, tokenizer)[:max_length]), ()) for text in prompts]
    if not examples or not all(len(example) for example in examples):
        raise DataError("a text to take statistics from is empty", got=f"{len(examples)} texts")
    return examples


def _encode(prompt: str, response: str, tokenizer: Any, eos: int, max_length: int) -> Example:
    prompt_ids = _prompt_ids(prompt, tokenizer)
    response_ids = list(tokenizer(response, add_special_tokens=False)["input_ids"])
    if not response_ids or response_ids[-1] != eos:
        response_ids.append(eos)
    room = max(0, max_length - len(prompt_ids))
    return Example(tuple(prompt_ids), tuple(response_ids[:room]))


def _prompt_ids(prompt: str, tokenizer: Any) -> list[int]:
    # A chat template may already have written the BOS text; the tokenizer must not add a second one.
    opened = bool(tokenizer.bos_token) and prompt.startswith(tokenizer.bos_token)
    prompt_ids = list(tokenizer(prompt, add_special_tokens=not opened)["input_ids"])
    eos = tokenizer.eos_token_id
    if prompt_ids and eos is not None and prompt_ids[-1] == eos and not prompt.endswith(tokenizer.eos_token):
        prompt_ids.pop()  # encoder-style tokenizers close every text; the prompt is not the end here
    return prompt_ids


def pad_token(tokenizer: Any) -> int:
    """Id that fills padding: the tokenizer's pad, else its EOS, else 0; masks make the choice irrelevant."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def batches(
    examples: Sequence[Example],
    *,
    batch_tokens: int,
    pad_id: int,
    side: Literal["left", "right"] = "right",
    pad_to: int | None = None,
    max_sequences: int | None = None,
    sort: bool = True,
) -> list[Batch]:
    """The examples as padded batches of at most `batch_tokens` tokens, padding included.

    Args:
        examples: what `encode_rows` returns.
        batch_tokens: most padded tokens of a batch; a longer single example has a batch of its own.
        pad_id: id written at padded positions.
        side: where padding goes.
        pad_to: widths are rounded up to a multiple of this (with the longest length: one fixed width).
        max_sequences: most sequences of a batch.
        sort: longest first, which wastes least on padding; False keeps the given order.

    Raises:
        DataError: if there are no examples.
    """
    groups = grouped(examples, batch_tokens=batch_tokens, pad_to=pad_to, max_sequences=max_sequences, sort=sort)
    return [_padded(group, width, pad_id, side) for group, width in groups]


def grouped(
    examples: Sequence[Row],
    *,
    batch_tokens: int,
    pad_to: int | None = None,
    max_sequences: int | None = None,
    sort: bool = True,
) -> list[tuple[list[Row], int]]:
    """The examples cut into batches, each with the width it is padded to; arguments as in `batches`.

    Raises:
        DataError: if there are no examples.
    """
    if not examples:
        raise DataError("there are no examples to batch")
    ordered = sorted(examples, key=len, reverse=True) if sort else list(examples)
    groups: list[tuple[list[Row], int]] = []
    for example in ordered:
        own = _rounded(len(example), pad_to)
        group, width = groups[-1] if groups else ([], 0)
        grown = max(width, own)
        fits = bool(group) and grown * (len(group) + 1) <= batch_tokens
        if fits and (max_sequences is None or len(group) < max_sequences):
            group.append(example)
            groups[-1] = (group, grown)
        else:
            groups.append(([example], own))
    return groups


def _rounded(length: int, multiple: int | None) -> int:
    return length if multiple is None else -(-length // multiple) * multiple


def _padded(group: list[Example], width: int, pad_id: int, side: str) -> Batch:
    input_ids = torch.full((len(group), width), pad_id, dtype=torch.int64)
    mask = torch.zeros_like(input_ids)
    labels = torch.full_like(input_ids, UNSUPERVISED)
    for row, example in enumerate(group):
        start = width - len(example) if side == "left" else 0
        end, response = start + len(example), start + len(example.prompt_ids)
        input_ids[row, start:end] = torch.tensor(example.prompt_ids + example.response_ids)
        mask[row, start:end] = 1
        labels[row, response:end] = torch.tensor(example.response_ids)
    return Batch(input_ids, mask, labels)


def data_fingerprint(examples: Sequence[Example], seed: int) -> dict[str, Any]:
    """What a plan records of its data: rows, tokens, supervised tokens, seed, and a SHA-256 of all ids in order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(f"{list(example.prompt_ids)}{list(example.response_ids)}".encode())
    return {
        "rows": len(examples),
        "tokens": sum(len(example) for example in examples),
        "supervised_tokens": sum(len(example.response_ids) for example in examples),
        "seed": seed,
        "sha256": digest.hexdigest(),
    }
