"""What FoRA is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from farss.method_settings import MethodSettings
from farss.settings import require


@dataclass(frozen=True)
class ForaConfig(MethodSettings):
    """How the method `fora` chooses layers and moves its constrained factor; no other method reads it.

    `rho` is the share of layers that get adapters. `score` divides a layer's squared gradients by the number of its
    weights ("mean") or not ("sum"). `factor` is the one kept orthonormal: B (`B'B = I`) or A (`AA' = I`). With
    `optimizer="adamw"` the factor moves as the training's optimiser moves it and is brought back by `retraction`;
    `cayley_adam` rotates it instead. `rate` multiplies the training's learning rate for the factor; None is 1 with
    adamw and 5 with cayley_adam (the published 1e-3 beside 2e-4).
    """

    group = "fora"

    rho: float = 0.5
    score: Literal["sum", "mean"] = "sum"
    factor: Literal["B", "A"] = "B"
    optimizer: Literal["adamw", "cayley_adam"] = "adamw"
    retraction: Literal["polar", "qr"] = "polar"
    rate: float | None = None

    def __post_init__(self) -> None:
        require(0 < self.rho <= 1, "the share of layers must be in (0, 1]", where="fora.rho", got=self.rho)
        require(self.rate is None or self.rate > 0, "the rate must be positive", where="fora.rate", got=self.rate)
