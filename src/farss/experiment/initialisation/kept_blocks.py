"""What comes of each block of a walk, kept in files of its own, so that an interrupted walk goes on behind it."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from farss.config import FarssConfig
from farss.errors import StorageError
from farss.foreign import foreign
from farss.maths.scores import DirectionScores
from farss.methods.base import Evidence
from farss.model.spectra import SpectrumCache
from farss.model.targets import Target, weight_matrix
from farss.reading import OBJECT, Document, unless_damaged
from farss.statistics.moments import Curvature
from farss.storage import read_tensors, write_tensors

PARTS = ("sigma", "log_s", "lam", "gam")
NOTE = "block"
BLOCK = Document("note of a kept block", StorageError)


class KeptBlocks(ABC):
    """Receives the blocks of a `farss.statistics.streamed.Walk`, and remembers what it made of them.

    Args:
        targets: of all blocks.
        work: keeps `block-INDEX.safetensors` of finished blocks; None keeps nothing.
    """

    def __init__(self, targets: Sequence[Target], work: Path | None = None) -> None:
        self.targets, self.work = targets, work
        self.finished: set[int] = set()

    @abstractmethod
    def digest(self, targets: Sequence[Target], parts: Sequence[Curvature]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Use the moments of one block's targets; what `restore` needs, as tensors and as JSON."""

    @abstractmethod
    def restore(self, tensors: Mapping[str, Tensor], notes: dict[str, Any]) -> None:
        """Put back what `digest` gave for a block in an earlier walk."""

    def has(self, index: int) -> bool:
        """Whether this block was received, now or by a walk that was interrupted."""
        if index not in self.finished and self.work is not None and self._file(index).is_file():
            file = self._file(index)
            if unless_damaged(lambda: self._read(file), "the block is computed again"):
                self.finished.add(index)
        return index in self.finished

    def receive(self, index: int, parts: Sequence[Curvature]) -> None:
        """Use and keep what comes of block `index`; there are no parts if it has no targets."""
        tensors, head = {}, {}
        if parts:
            tensors, notes = self.digest([target for target in self.targets if target.layer == index], parts)
            head = {NOTE: json.dumps(notes)}
        if self.work is not None:
            write_tensors(self._file(index), tensors, head)
        self.finished.add(index)

    def _read(self, file: Path) -> bool:
        tensors, head = read_tensors(file)
        if head.get(NOTE) is not None:
            notes = BLOCK.parse_as(head[NOTE], OBJECT, file)
            with foreign(StorageError, "the kept block cannot be used", where=file):
                self.restore(tensors, notes)
        return True

    def _file(self, index: int) -> Path:
        assert self.work is not None
        return self.work / f"block-{index:04d}.safetensors"


class ScoredBlocks(KeptBlocks):
    """Turns the moments of each block into scores while its weights are in memory, and forgets the moments.

    Args:
        evidence: receives sigma and scores of every target.
        targets: of all blocks.
        spectra: decompositions.
        config: tells the route.
        work: as for `KeptBlocks`.
    """

    def __init__(
        self,
        evidence: Evidence,
        targets: Sequence[Target],
        spectra: SpectrumCache,
        config: FarssConfig,
        work: Path | None = None,
    ) -> None:
        super().__init__(targets, work)
        self.evidence, self.spectra, self.config = evidence, spectra, config

    def digest(self, targets: Sequence[Target], parts: Sequence[Curvature]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Score the targets."""
        (curvature,) = parts
        for target in targets:
            spectrum = self.spectra.get(target, self.config.route)
            self.evidence.score(target, spectrum, curvature.pair(target.name, weight_matrix(target)))
        return packed(self.evidence, targets)

    def restore(self, tensors: Mapping[str, Tensor], notes: dict[str, Any]) -> None:
        """Put the scores back."""
        unpack(self.evidence, tensors, notes)


def packed(evidence: Evidence, targets: Sequence[Target], mark: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Singular values and scores of `targets` as tensors, their names beginning with `mark`, and importances."""
    tensors: dict[str, Tensor] = {}
    importance: dict[str, float] = {}
    for target in targets:
        scores = evidence.scores(target)
        values = (evidence.sigma(target), scores.log_s, scores.lam, scores.gam)
        # A copy each, for spectra may be shared between evidence and a file holds no tensor twice.
        tensors |= {f"{mark}{target.name}.{part}": v.clone() for part, v in zip(PARTS, values, strict=True)}
        importance[target.name] = scores.importance
    return tensors, importance


def unpack(evidence: Evidence, tensors: Mapping[str, Tensor], importance: dict[str, float], mark: str = "") -> None:
    """Put into `evidence` what `packed` took from it.

    Raises:
        StorageError: if there is not one number for each direction.
    """
    for name, value in importance.items():
        sigma, log_s, lam, gam = parts = [tensors[f"{mark}{name}.{part}"] for part in PARTS]
        if sigma.ndim != 1 or len({part.shape for part in parts}) > 1:
            raise StorageError("scores of a kept block are not one per direction", where=name)
        evidence.keep(name, sigma, DirectionScores(log_s, lam, gam, value))
