"""Batches of packed sequences, laid out one sequence a row: none reads another, whatever the model's attention does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from farss.errors import DataError
from farss.model.examples import UNSUPERVISED

PACKING = ("position_ids", "seq_idx", "cu_seq_lens_q", "cu_seq_lens_k")
"""Tensors that say where packed sequences begin."""
NEEDED = ("input_ids", "attention_mask", "labels")
HARMLESS = ("token_type_ids",)
"""Tensors that mean nothing where they are all zero."""


def check_tensors(batch: Mapping[str, Any], ids: Tensor) -> None:
    """Refuse a batch with tensors that would change what the model computes and are not handed to it.

    Args:
        batch: what a data loader gave.
        ids: its token ids, [b, t].

    Raises:
        DataError: naming the tensor.
    """
    for name, value in batch.items():
        if name in (*NEEDED, *PACKING) or not isinstance(value, Tensor) or value.ndim < 2:
            continue
        if name in HARMLESS and not bool(value.any()):
            continue
        raise DataError(
            "a batch has a tensor that farss does not read, which may change what is computed",
            where=str(name),
            expected=", ".join((*NEEDED, *PACKING)),
            got=f"{tuple(value.shape)} beside input_ids {tuple(ids.shape)}",
            do="leave it out of the batches for the statistics, if they mean the same without it",
        )


def unpacked(batch: Mapping[str, Any], ids: Tensor, mask: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and labels with every packed sequence in a row of its own, padded at the right.

    The first token of a sequence is never a label: what precedes it in the pack does not predict it. A batch whose rows
    are single sequences comes back as it is.

    Args:
        batch: has `position_ids`, `seq_idx` or `cu_seq_lens_q` where rows are packed; the mask may number sequences.
        ids: [b, t].
        mask: [b, t], 0 at padding.
        labels: [b, t].

    Raises:
        DataError: if positions are neither those of sequences nor of a pack of them, or two tensors disagree.
    """
    real = mask > 0
    said = (_of_positions(batch, real), _of_numbers(batch, mask), _of_lengths(batch, ids))
    starts = [found for found in said if found is not None]
    if not starts:
        return ids, real.long(), labels
    if any(not torch.equal(starts[0] & real, other & real) for other in starts[1:]):
        raise DataError("the tensors of a packed batch do not agree on where sequences begin", got=", ".join(batch))
    begins = (starts[0] | _first_of(real)) & real
    if int(begins.sum()) <= len(ids):
        return ids, real.long(), labels
    rows = [
        (row, piece)
        for row in range(len(ids))
        for piece in torch.tensor_split(torch.arange(ids.shape[1])[real[row]], _cuts(begins[row], real[row]))
    ]
    width = max(len(piece) for _, piece in rows)
    new_ids, new_mask = ids.new_zeros(len(rows), width), ids.new_zeros(len(rows), width)
    new_labels = torch.full_like(new_ids, UNSUPERVISED)
    for place, (row, piece) in enumerate(rows):
        new_ids[place, : len(piece)] = ids[row, piece]
        new_mask[place, : len(piece)] = 1
        new_labels[place, 1 : len(piece)] = labels[row, piece[1:]]
    return new_ids, new_mask, new_labels


def _cuts(begins: Tensor, real: Tensor) -> list[int]:
    return torch.nonzero(begins[real]).flatten().tolist()[1:]


def _first_of(real: Tensor) -> Tensor:
    return real & (real.cumsum(-1) == 1)


def _of_positions(batch: Mapping[str, Any], real: Tensor) -> Tensor | None:
    """Where positions begin again at 0."""
    if batch.get("position_ids") is None:
        return None
    positions = torch.as_tensor(batch["position_ids"]).to(real.device)
    if positions.ndim != 2 or positions.shape[-1] != real.shape[-1] or len(positions) not in (1, len(real)):
        raise DataError(
            "the positions of a batch do not fit it", expected=tuple(real.shape), got=tuple(positions.shape)
        )
    positions = positions.expand_as(real)
    starts = (positions == 0) & real
    before = torch.roll(positions, 1, -1)
    counted = starts | (positions == before + 1)
    if not bool((counted | ~real).all()) or not bool((starts | ~_first_of(real)).all()):
        raise DataError(
            "the positions of a batch are none that farss gives a model",
            where="position_ids",
            expected="0, 1, 2, ... in every sequence, from 0 again where the next one of a pack begins",
            do="leave position_ids out if the sequences are not packed",
        )
    return starts


def _of_numbers(batch: Mapping[str, Any], mask: Tensor) -> Tensor | None:
    """Where the number of the sequence changes, in `seq_idx` or in a mask that numbers them."""
    numbers = batch.get("seq_idx")
    if numbers is None and not bool((mask > 1).any()):
        return None
    of = mask if numbers is None else torch.as_tensor(numbers).to(mask.device)
    if of.shape != mask.shape:
        raise DataError(
            "the sequence numbers of a batch do not fit it", expected=tuple(mask.shape), got=tuple(of.shape)
        )
    return _first_of(mask > 0) | ((of != torch.roll(of, 1, -1)) & (mask > 0))


def _of_lengths(batch: Mapping[str, Any], ids: Tensor) -> Tensor | None:
    """Where sequences begin by their cumulated lengths, of a batch that is one row."""
    if batch.get("cu_seq_lens_q") is None:
        return None
    ends = torch.as_tensor(batch["cu_seq_lens_q"]).flatten().tolist()
    if len(ids) != 1 or ends != sorted(set(ends)) or not ends or ends[0] != 0 or ends[-1] > ids.shape[1]:
        raise DataError("the cumulated lengths of a batch do not fit it", where="cu_seq_lens_q", got=ends[:8])
    starts = torch.zeros_like(ids, dtype=torch.bool)
    starts[0, [end for end in ends if end < ids.shape[1]]] = True
    return starts
