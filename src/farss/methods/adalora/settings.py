"""What AdaLoRA is told."""

from __future__ import annotations

from dataclasses import dataclass

from farss.method_settings import MethodSettings
from farss.settings import require


@dataclass(frozen=True)
class AdaloraConfig(MethodSettings):
    """How the method `adalora` cuts its ranks; no other method reads it.

    Every module starts with rank `initial_rank` (None: 1.5 times `rank`, rounded up), and `rank` per module remain on
    average. Ranks are cut every `interval` steps after the first `initial_share` of the training's steps and before
    the last `final_share`. `beta1` and `beta2` smooth the importance of a triplet and its uncertainty; `orthogonality`
    weighs the mean of `||P'P - I||_F` and `||QQ' - I||_F` in the loss.
    """

    group = "adalora"

    initial_rank: int | None = None
    initial_share: float = 0.1
    final_share: float = 0.3
    interval: int = 1
    beta1: float = 0.85
    beta2: float = 0.85
    orthogonality: float = 0.5

    def __post_init__(self) -> None:
        shares = (self.initial_share, self.final_share)
        fits = min(shares) >= 0 and sum(shares) < 1
        require(fits, "the shares leave no steps to cut ranks in", where="adalora", got=shares)
        require(self.interval >= 1, "the interval must be at least 1", where="adalora.interval", got=self.interval)
        decays = (self.beta1, self.beta2)
        require(all(0 < beta < 1 for beta in decays), "decays must be in (0, 1)", where="adalora", got=decays)
        require(self.orthogonality >= 0, "a weight cannot be negative", where="adalora", got=self.orthogonality)
