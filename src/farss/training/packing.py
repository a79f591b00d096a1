"""Rows put in one sequence without padding, such that none sees another, which is tried before a training begins."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from farss.adapters.layers import base_of
from farss.errors import ModelError
from farss.model.calibration import UNSUPERVISED, Example
from farss.model.modes import reading_only
from farss.training.batching import PaddedBatch
from farss.training.loss import output_head, supervised_logits

TRIED_ROWS, TRIED_TOKENS = 2, 16
"""Of the check: rows, the longest ones, and the learned tokens at either end of each whose logits are compared."""
LEAVE_OUT = "leave train.packing out: rows of like length share a pass, so little is padded"


class PackedBatch:
    """Rows to one sequence: `input_ids`, `position_ids`, which begin again with every row, and `labels`, [1, t] each.

    There is no mask: transformers reads off the positions which tokens belong together.
    """

    def __call__(self, rows: Sequence[Example]) -> dict[str, Tensor]:
        """The sequence of `rows`, in their order."""
        ids, positions, labels = list[int](), list[int](), list[int]()
        for row in rows:
            ids += row.ids
            positions += range(len(row))
            labels += (UNSUPERVISED, *row.labels[1:])  # nothing predicts the first token of a row
        made = {"input_ids": ids, "position_ids": positions, "labels": labels}
        return {name: torch.tensor([values]) for name, values in made.items()}


def check_packing(model: nn.Module, examples: Sequence[Example], pad_id: int) -> None:
    """Make sure that packed rows do not see each other in this model: its logits are those of rows of their own.

    Args:
        model: as it will be trained.
        examples: rows of the training.
        pad_id: id written at padded positions.

    Raises:
        ModelError: if it carries a state from token to token, or the logits of packed rows are others.
    """
    if any(getattr(module, "_is_stateful", False) for module in base_of(model).modules()):
        raise ModelError(
            "the model carries a state from token to token, through which packed rows would see each other",
            where=type(base_of(model)).__name__,
            do=LEAVE_OUT,
        )
    tried = [_few_learned(row) for row in sorted(examples, key=len, reverse=True)[:TRIED_ROWS]]
    apart, packed = (_logits(model, batch) for batch in (PaddedBatch(pad_id, 1)(tried), PackedBatch()(tried)))
    difference = float((packed - apart).square().mean().sqrt() / apart.square().mean().sqrt())
    allowed = torch.finfo(next(model.parameters()).dtype).eps ** 0.5
    if not difference <= allowed:
        raise ModelError(
            "packed rows see each other in this model",
            where=type(base_of(model)).__name__,
            expected=f"logits within {allowed:.1e} of those of rows of their own",
            got=f"{difference:.1e}",
            do=LEAVE_OUT,
        )


def _few_learned(row: Example) -> Example:
    """The row with only its first and last learned tokens marked; logits are then compared in little memory."""
    learned = [place for place, label in enumerate(row.labels) if label != UNSUPERVISED]
    kept = {*learned[:TRIED_TOKENS], *learned[-TRIED_TOKENS:]}
    return Example.marked(list(row.ids), [place in kept for place in range(len(row))])


def _logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Centred logits [n, v] at what is learned of a batch, without dropout."""
    device = next(model.parameters()).device
    with torch.no_grad(), reading_only(model):
        logits, _ = supervised_logits(model, output_head(model), {k: v.to(device) for k, v in batch.items()})
    return logits - logits.mean(-1, keepdim=True)
