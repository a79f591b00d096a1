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

    @property
    def line(self) -> str:
        """One sentence for the terminal."""
        step, loss = min(self.losses, key=lambda point: point[1])
        kept = "which the adapter is of" if self.kept_step == step else f"the adapter is of step {self.kept_step}"
        why = "; stopped early" if self.ended == "early_stopping" else ""
        return f"validation loss: lowest {loss:.3f} at step {step}, {kept}{why}"
