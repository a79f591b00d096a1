"""Scores by each of two disjoint halves of the calibration rows, and by both: how steady a choice is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from farss.config import FarssConfig
from farss.experiment.initialisation.kept_blocks import KeptBlocks, packed, unpack
from farss.experiment.initialisation.statistics import Shard
from farss.maths.spectrum import Spectrum
from farss.methods.base import Evidence
from farss.model.spectra import SpectrumCache
from farss.model.targets import Target, weight_matrix
from farss.statistics.moments import Curvature

HALVES = (Shard(1, 2), Shard(2, 2))


@dataclass
class Halved:
    """Scores of every module.

    Attributes:
        whole: of all rows.
        halves: of each half.
        counts: tokens, supervised tokens and rows of each half.
    """

    whole: Evidence
    halves: tuple[Evidence, Evidence]
    counts: list[dict[str, int]] = field(default_factory=list)

    @classmethod
    def empty(cls, fingerprint: str, data: dict[str, Any] | None = None, **further: Any) -> Self:
        """No scores yet of the model with this fingerprint; `further` is what else a kind of it holds."""
        whole, one, two = (Evidence(fingerprint, data=data) for _ in range(3))
        return cls(whole, (one, two), **further)

    def count(self, parts: Sequence[Curvature]) -> None:
        """Note how much each half holds."""
        self.counts = [{"tokens": p.tokens, "supervised": p.supervised, "rows": p.sequences} for p in parts]

    @property
    def tokens(self) -> int:
        """Of both halves."""
        return sum(half["tokens"] for half in self.counts)

    def score(self, target: Target, spectrum: Spectrum, parts: Sequence[Curvature], *, both: bool = True) -> None:
        """Score one module, whose weight is in memory, by the moments of each half, and by `both` together."""
        weight = weight_matrix(target)
        pairs = [part.pair(target.name, weight) for part in parts]
        for evidence, pair in zip(self.halves, pairs, strict=True):
            evidence.score(target, spectrum, pair)
        if both:
            first, second = (together(parts, moments) for moments in zip(*pairs, strict=True))
            self.whole.score(target, spectrum, (first, second))

    def marked(self) -> dict[str, Evidence]:
        """The evidence by the names it is kept under."""
        return {"whole": self.whole, "half-1": self.halves[0], "half-2": self.halves[1]}


class HalvedBlocks(KeptBlocks):
    """Scores the modules of each block of a walk by each half and by both while their weights are in memory.

    Args:
        found: receives the scores.
        targets: of all blocks.
        spectra: decompositions.
        config: tells the route.
        work: as for `KeptBlocks`.
    """

    def __init__(
        self,
        found: Halved,
        targets: Sequence[Target],
        spectra: SpectrumCache,
        config: FarssConfig,
        work: Path | None = None,
    ) -> None:
        super().__init__(targets, work)
        self.found, self.spectra, self.config = found, spectra, config

    def score(self, target: Target, parts: Sequence[Curvature]) -> None:
        """Score one module."""
        self.found.score(target, self.spectra.get(target, self.config.route), parts)

    def digest(self, targets: Sequence[Target], parts: Sequence[Curvature]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Score the modules."""
        self.found.count(parts)
        for target in targets:
            self.score(target, parts)
        kept = {mark: packed(evidence, targets, f"{mark}/") for mark, evidence in self.found.marked().items()}
        notes = {
            "importance": {mark: importance for mark, (_, importance) in kept.items()},
            "counts": self.found.counts,
        }
        return {name: tensor for tensors, _ in kept.values() for name, tensor in tensors.items()}, notes

    def restore(self, tensors: Mapping[str, Tensor], notes: dict[str, Any]) -> None:
        """Put scores and counts back."""
        for mark, evidence in self.found.marked().items():
            unpack(evidence, tensors, notes["importance"][mark], f"{mark}/")
        self.found.counts = notes["counts"]


def together(parts: Sequence[Curvature], means: Sequence[Tensor]) -> Tensor:
    """The mean over all tokens, from the means over each part's."""
    total = sum(part.tokens for part in parts)
    weighted = [mean * (part.tokens / total) for part, mean in zip(parts, means, strict=True)]
    return weighted[0] + weighted[1]
