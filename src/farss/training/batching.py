"""Which rows make a step, in what order, and at what padded width.

Rows of like length share a batch, so little is spent on padding, and widths are multiples of one number, so few
distinct shapes occur: memory of one step then fits the next, and allocators do not fragment.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor
from torch.utils.data import Sampler

from farss.errors import ConfigError
from farss.model.calibration import UNSUPERVISED, Example, batches

WIDTH_MULTIPLE = 32
"""Padded widths are multiples of this: about 15 shapes up to 512 tokens."""

NEIGHBOURHOOD = 32
"""Batches whose rows are sorted by length together; more saves padding, fewer keeps batches more random."""

ROWS_AT_ONCE = 8
"""Rows of one forward pass where the settings leave it open; more gains little speed and costs memory."""


class BatchOrder(Sampler[int]):
    """Row indices of one epoch, such that consecutive runs of `batch_size` are its batches.

    Rows are shuffled, each neighbourhood of `NEIGHBOURHOOD` batches is sorted by length and cut into batches, and the
    batches are shuffled, the incomplete one last. The order depends on lengths, `batch_size`, `seed` and the epoch
    alone, so it is the same however a batch is split over passes and processes.

    Args:
        lengths: number of tokens of each row.
        batch_size: rows of one optimiser step, all processes together.
        seed: of the shuffles.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(len(self.lengths))
        step = NEIGHBOURHOOD * self.batch_size
        found: list[np.ndarray] = []
        for start in range(0, len(order), step):
            near = order[start : start + step]
            near = near[np.argsort(-self.lengths[near], kind="stable")]
            # Where rows are left over, they are drawn from all lengths: the longest would always be the odd ones out.
            spare = random.choice(len(near), len(near) % self.batch_size, replace=False)
            full = np.delete(near, spare)
            found += [full[i : i + self.batch_size] for i in range(0, len(full), self.batch_size)]
            rest = near[np.sort(spare)]
        yield from (int(row) for batch in random.permutation(len(found)) for row in found[batch])
        yield from (int(row) for row in rest)


class PaddedBatch:
    """Rows to the padded tensors of one forward pass: `input_ids`, `attention_mask` and `labels`, [b, t] int64 each.

    Args:
        pad_id: id written at padded positions.
        multiple: widths are rounded up to a multiple of this.
    """

    def __init__(self, pad_id: int, multiple: int = WIDTH_MULTIPLE) -> None:
        self.pad_id, self.multiple = pad_id, multiple

    def __call__(self, rows: Sequence[Example]) -> dict[str, Tensor]:
        """The batch of `rows`, in their order, padded at the right."""
        (batch,) = batches(rows, batch_tokens=sys.maxsize, pad_id=self.pad_id, pad_to=self.multiple, sort=False)
        batch.labels[:, 0] = UNSUPERVISED  # nothing predicts the first token, so it must not be counted either
        return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": batch.labels}


def split_batch(batch_size: int, micro_batch_size: int | None, processes: int) -> tuple[int, int]:
    """(rows of one forward pass, passes of one step) of each process.

    Args:
        batch_size: rows of one optimiser step, all processes together.
        micro_batch_size: rows of one pass; None takes the largest part of a process's share up to `ROWS_AT_ONCE`.
        processes: how many processes train together.

    Raises:
        ConfigError: if the batch cannot be split evenly.
    """
    share, left = divmod(batch_size, processes)
    if left or share == 0:
        raise ConfigError(
            "the batch cannot be split evenly over the processes",
            where="batch_size",
            expected=f"a multiple of {processes}",
            got=batch_size,
        )
    if micro_batch_size is None:
        micro_batch_size = max(rows for rows in range(1, min(share, ROWS_AT_ONCE) + 1) if share % rows == 0)
    micro_batch_size = min(micro_batch_size, share)
    if micro_batch_size < 1 or share % micro_batch_size:
        raise ConfigError(
            "the batch cannot be split evenly into micro-batches",
            where="micro_batch_size",
            expected=f"a divisor of {share}",
            got=micro_batch_size,
        )
    return micro_batch_size, share // micro_batch_size
