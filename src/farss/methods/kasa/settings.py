"""What KaSA is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from farss.method_settings import MethodSettings
from farss.settings import require


@dataclass(frozen=True)
class KasaConfig(MethodSettings):
    """What the method `kasa` drops of the weights, and its regularisers; no other method reads it.

    Of a weight [m, n] with k = min(m, n) components, `drop` takes away the r smallest ("smallest", the publication and
    PEFT), those from position n - r on ("published", its code: none of a wide weight with n - r >= k), or "nothing", so
    that training starts at the base. `beta` weighs `||d||^2` and `gamma` `||B'B - I||_F + ||AA' - I||_F`. `normalise`
    takes their mean over modules, as the published code does, or their sum, as PEFT does.
    """

    group = "kasa"

    drop: Literal["smallest", "published", "nothing"] = "smallest"
    beta: float = 1e-4
    gamma: float = 1e-3
    normalise: Literal["modules", "sum"] = "modules"

    def __post_init__(self) -> None:
        require(self.beta >= 0, "a weight cannot be negative", where="kasa.beta", got=self.beta)
        require(self.gamma >= 0, "a weight cannot be negative", where="kasa.gamma", got=self.gamma)
