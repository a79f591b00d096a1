"""Calibration and training rows as token ids, and padded batches of them with masks and labels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from farss.errors import DataError
from farss.model.encoding import encode_prompts, encode_rows
from farss.model.examples import UNSUPERVISED, Example
from farss.model.packing import check_tensors, unpacked

__all__ = [
    "UNSUPERVISED",
    "Batch",
    "Example",
    "batches",
    "data_fingerprint",
    "encode_prompts",
    "encode_rows",
    "grouped",
    "pad_token",
]

Row = TypeVar("Row", bound=Sized)


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
        """A batch from a mapping as data loaders give it: ids, labels, and a mask, without which nothing is padding.

        Sequences that are packed into one row (`position_ids`, `seq_idx`, `cu_seq_lens_q`, or a mask that numbers them)
        get a row each, so that none reads another.

        Raises:
            DataError: if ids or labels are missing, the shapes differ, or there is a tensor that would be ignored.
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
        check_tensors(batch, ids)
        return cls(*unpacked(batch, ids.long(), mask.long(), labels.long()))

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
        end = start + len(example)
        input_ids[row, start:end] = torch.tensor(example.ids)
        mask[row, start:end] = 1
        labels[row, start:end] = torch.tensor(example.labels)
    return Batch(input_ids, mask, labels)


def data_fingerprint(examples: Sequence[Example], seed: int) -> dict[str, Any]:
    """What a plan records of its data: rows, tokens, supervised tokens, seed, and a SHA-256 of all ids in order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(f"{list(example.prompt_ids)}{list(example.response_ids)}".encode())
        digest.update(b"" if example.learned_at is None else f"{list(example.learned_at)}".encode())
    return {
        "rows": len(examples),
        "tokens": sum(len(example) for example in examples),
        "supervised_tokens": sum(len(example.response_ids) for example in examples),
        "seed": seed,
        "sha256": digest.hexdigest(),
    }
