"""OLoRA: adapters start from the QR decomposition of the weights."""

from __future__ import annotations

import torch

from farss.config import FarssConfig
from farss.methods.base import Evidence
from farss.methods.factored import FactorMethod, exact_weight
from farss.methods.look import Look
from farss.model.start import Factors
from farss.model.targets import Target


class Olora(FactorMethod):
    """`W = Q R`, `B = Q[:, :r]`, `A = R[:r]`, not divided by the scale: `scale * B A` is subtracted, as published."""

    def factors(self, target: Target, rank: int, evidence: Evidence, config: FarssConfig) -> Factors:
        """The first columns of Q and rows of R, the diagonal of R not negative."""
        q, r = torch.linalg.qr(exact_weight(target))
        signs = torch.where(r.diagonal() < 0, -1.0, 1.0).to(r.dtype)
        return Factors((q * signs)[:, :rank], (signs[:, None] * r)[:rank])


OLORA = Olora(
    name="olora",
    summary="orthonormal B and triangular A from the QR decomposition at rank R; needs no data",
    look=Look("OLoRA", "#5c8b11", "bowl"),
)
"""OLoRA: Orthonormal Low-Rank Adaptation of Large Language Models (2024)."""
