"""LoRA-GA: adapters start so that their first step is close to one of full fine-tuning."""

from __future__ import annotations

import torch

from farss.config import FarssConfig
from farss.errors import NumericalError
from farss.maths.spectrum import rank_tolerance
from farss.methods.base import Evidence
from farss.methods.factored import FactorMethod
from farss.methods.look import Look
from farss.methods.start_settings import StartConfig
from farss.model.start import Factors
from farss.model.targets import Target


class LoraGa(FactorMethod):
    """LoRA-GA: Low-Rank Adaptation with Gradient Approximation (NeurIPS 2024).

    With the gradient `G = U S V'` of the loss: `A = c V[:, :r]'` and `B = c U[:, r:2r]` with
    `c = m**0.25 / gamma**0.5`. The singular values themselves do not enter. Not divided by the scale, as published.
    """

    def limit(self, target: Target) -> int:
        """Half of the directions: A takes the first, B the second r."""
        return max(min(target.shape) // 2, 1)

    def factors(self, target: Target, rank: int, evidence: Evidence, config: FarssConfig) -> Factors:
        """Right vectors of the r largest singular values of the gradient, left vectors of the r next.

        Raises:
            NumericalError: if the gradient has fewer than two directions.
        """
        left, sigma, right = torch.linalg.svd(evidence.of("gradient", target.name).mean(target), full_matrices=False)
        solid = int((sigma > rank_tolerance(target.shape) * sigma[0]).sum())
        if solid < 2:
            raise NumericalError(
                "the gradient has fewer than two directions",
                where=target.name,
                got=solid,
                do="exclude this module, or use more calibration rows",
            )
        rank = min(rank, solid // 2)
        size = target.shape[0] ** 0.25 / config.of(StartConfig).gamma ** 0.5
        return Factors(size * left[:, rank : 2 * rank], size * right[:rank])


LORA_GA = LoraGa(
    name="lora-ga",
    summary="A and B from the singular vectors of the task's gradient at rank R",
    look=Look("LoRA-GA", "#3b4f25", "star6"),
    needs=frozenset({"gradient"}),
)
