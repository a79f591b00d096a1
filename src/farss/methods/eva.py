"""EVA: A starts from the directions in which the inputs vary most, B from zero."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from farss.config import FarssConfig
from farss.methods.base import Evidence, adapter_scale
from farss.methods.factored import FactorMethod
from farss.methods.look import Look
from farss.methods.start_settings import StartConfig
from farss.model.start import Factors
from farss.model.targets import Target


class Eva(FactorMethod):
    """Parameter Efficient Fine-tuning via Explained Variance Adaptation (2024).

    The rows of A are the top right singular vectors of the matrix of all inputs, taken exactly from the inputs' second
    moment (the published code approximates them batch by batch until they settle). Ranks follow the explained
    variance; every module keeps at least one direction, where the published code drops modules that get none. The
    scale is that of rank R in every module, as published.
    """

    def ranks(self, targets: Sequence[Target], evidence: Evidence, config: FarssConfig) -> list[int]:
        """`R` per module on average, given to the directions that explain most of their module's variance.

        A module gets from 1 to `init.start.rank_ratio * R`, never more than it has directions.
        """
        shares = [self._explained(target, evidence) for target in targets]
        most = [min(int(config.of(StartConfig).rank_ratio * config.rank), self.limit(target)) for target in targets]
        budget = sum(min(config.rank, self.limit(target)) for target in targets)
        ranks = [1] * len(targets)
        further = [
            (-share, module, position)
            for module, explained in enumerate(shares)
            for position, share in enumerate(explained[: most[module]])
            if position > 0
        ]
        for _, module, _ in sorted(further)[: max(budget - len(targets), 0)]:
            ranks[module] += 1
        return ranks

    def factors(self, target: Target, rank: int, evidence: Evidence, config: FarssConfig) -> Factors:
        """B = 0 and the top eigenvectors of the inputs' second moment, largest-magnitude entry positive."""
        moment = self.moments(target, evidence).second_moment(target)
        rows = torch.linalg.eigh(moment).eigenvectors[:, -rank:].flip(1).T
        largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
        return Factors(torch.zeros(target.shape[0], rank, dtype=rows.dtype), rows * largest.sign())

    def scale(self, rank: int, config: FarssConfig) -> float:
        """The scale of rank R, whatever the module's own rank."""
        return adapter_scale(config.rank, config)

    def _explained(self, target: Target, evidence: Evidence) -> list[float]:
        """The share of the inputs' second moment along each of its directions, descending."""
        eigenvalues = torch.linalg.eigvalsh(self.moments(target, evidence).second_moment(target)).flip(0)
        return (eigenvalues / eigenvalues.sum()).tolist()


EVA = Eva(
    name="eva",
    summary="A from the top directions of the task's inputs, B zero, ranks by explained variance",
    look=Look("EVA", "#289785", "bar"),
    needs=frozenset({"input_covariance"}),
)
