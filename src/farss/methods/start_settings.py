"""What methods that make their own factors are told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from farss.method_settings import MethodSettings
from farss.settings import require


@dataclass(frozen=True)
class StartConfig(MethodSettings):
    """Choices of single methods that start from factors of their own.

    `iterations` of the randomised decomposition (pissa-niter). `covariance_scale` and `damping` of CorDA: the second
    moment of the inputs with trace n, or of samples each divided by its signed maximum as published; 1 % of the mean
    diagonal added, `doubled` until the inverse is accurate, or `fixed`. `rank_ratio` is the most by which a module of
    eva may exceed `rank` (1: equal ranks). `gamma` of lora-ga: its factors are `m**0.25 / gamma**0.5` times
    orthonormal ones.
    """

    group = "start"

    iterations: int = 16
    covariance_scale: Literal["trace", "signed_maximum"] = "trace"
    damping: Literal["doubled", "fixed"] = "doubled"
    rank_ratio: float = 2.0
    gamma: float = 16.0

    def __post_init__(self) -> None:
        require(self.iterations >= 0, "the number of iterations cannot be negative", got=self.iterations)
        require(self.rank_ratio >= 1, "the rank ratio must be at least 1", got=self.rank_ratio)
        require(self.gamma > 0, "gamma must be positive", got=self.gamma)
