"""What the loss on validation rows while training comes to in a report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

End = Literal["epochs", "max_steps", "early_stopping"]


@dataclass(frozen=True)
class Validated:
    """What was measured on validation rows while training.

    Attributes:
        losses: (step, mean loss per label) of every measurement.
        best_step: of the lowest, the first of equal ones.
        kept_step: whose weights the model has now.
        ended: by what training ended: its `epochs`, `max_steps`, or `early_stopping`.
    """

    losses: tuple[tuple[int, float], ...]
    best_step: int
    kept_step: int
    ended: End

    def to_mapping(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "losses": [list(point) for point in self.losses],
            "best_step": self.best_step,
            "kept_step": self.kept_step,
            "ended": self.ended,
        }
