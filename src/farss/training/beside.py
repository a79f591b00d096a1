"""Rows that are passed beside the task's: what they add to the loss of every step, at a ratio to its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from farss.training.aids import Pass, TrainingAid


class RowsBeside(TrainingAid):
    """A subclass says with `summed` what a pass of its rows adds.

    The rows of a step depend on the seed and the step alone, so a training goes on from a checkpoint as it was, and
    its gradient is the same however a step is split into passes. All rows are passed before any is passed again.

    Args:
        model: that is trained.
        rows: to be passed beside the task's.
        per_step: rows in every step.
        weight: of their mean loss beside the task's.
        collator: puts rows in a batch.
        seed: of their order.
    """

    name: ClassVar[str] = "rows_beside"

    def __init__(
        self,
        model: nn.Module,
        rows: Sequence[Any],
        *,
        per_step: int,
        weight: float,
        collator: Callable[[Sequence[Any]], dict[str, Tensor]],
        seed: int = 0,
    ) -> None:
        super().__init__(model)
        self.rows, self.per_step, self.weight = rows, per_step, weight
        self.collator, self.seed = collator, seed

    def summed(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """The loss of a batch, summed over what is counted by `size`."""
        raise NotImplementedError

    def size(self, row: Any) -> int:
        """How much of a row the loss is a mean over: labels, or 1 for a mean over rows."""
        return 1

    def identity(self) -> dict[str, Any]:
        """How many rows, how often, how strongly and in what order; a subclass adds what they are."""
        return {"rows": len(self.rows), "per_step": self.per_step, "weight": self.weight, "seed": self.seed}

    def of_step(self, step: int) -> list[Any]:
        """The rows beside those of a step."""
        count = len(self.rows)
        places = range(step * self.per_step, (step + 1) * self.per_step)
        orders = {turn: self._order(turn) for turn in {place // count for place in places}}
        return [self.rows[orders[place // count][place % count]] for place in places]

    def loss(self, at: Pass) -> Tensor | None:
        """This pass's part of the mean loss of the step's further rows."""
        rows = self.of_step(at.step)
        first, last = (part * len(rows) // at.parts for part in (at.part, at.part + 1))
        if first == last:
            return None
        device = next(at.model.parameters()).device
        batch = {name: value.to(device) for name, value in self.collator(rows[first:last]).items()}
        with at.arithmetic():
            loss = self.summed(at.model, batch)
        return self.weight / sum(map(self.size, rows)) * loss

    def _order(self, turn: int) -> np.ndarray:
        return np.random.default_rng([self.seed, turn]).permutation(len(self.rows))
