"""Calibration rows read in doubling steps, by either engine, until `settling` says that they are enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from farss.config import FarssConfig
from farss.errors import DataError, StorageError
from farss.experiment.drawing import Drawn
from farss.experiment.initialisation.crew import Crew
from farss.experiment.initialisation.halves import HALVES, Halved, HalvedBlocks
from farss.experiment.initialisation.planning import take
from farss.experiment.initialisation.settling import SETTLEMENT, Settlement, Step, agreed, sizes
from farss.experiment.initialisation.streaming import StreamedModel
from farss.experiment.progress import ProgressLine
from farss.methods.statistics import CURVATURE
from farss.model.spectra import SpectrumCache
from farss.model.targets import Target
from farss.reading import TEXT, Document, object_of, unless_damaged
from farss.statistics.curvature import Curvature
from farss.statistics.keeping import Growing
from farss.storage import write_json

RECORD = "settled.json"
RECORDED = Document("note of the rows that were read", StorageError)
RECORD_SCHEMA = object_of(identity=TEXT, settled=SETTLEMENT)
GROWING = ("half-*.safetensors", RECORD)
"""Names of what a reading under way keeps; the walks of the streamed engine have folders of their own."""
Blocks = TypeVar("Blocks", bound=HalvedBlocks)


@dataclass(frozen=True)
class Growth:
    """Rows that are read as far as it takes.

    Attributes:
        drawn: all that may be read.
        as_batches: some of them -> padded batches.
        fingerprint: some of them, in the order of the data -> what a plan records of them.
        config: a resolved configuration, by which they are read.
        kept: a folder from which an interrupted reading goes on.
        identity: of model, data and settings; what is kept under another one is not used.
        hands: this process among those that read together.
        judged: the resolved configurations whose plans they must be enough for; none stands for `config`.
    """

    drawn: Drawn[Any]
    as_batches: Callable[[Sequence[Any]], list[Any]]
    fingerprint: Callable[[Sequence[Any]], dict[str, Any]]
    config: FarssConfig
    kept: Path
    identity: str
    hands: Crew = field(default_factory=Crew)
    judged: tuple[FarssConfig, ...] = ()

    @property
    def sizes(self) -> list[int]:
        """Rows of each step.

        Raises:
            DataError: if a process would have none of a half.
        """
        rows, least = len(self.drawn.rows), len(HALVES) * self.hands.size
        found = [size for size in sizes(rows) if size >= least]
        if not found:
            raise DataError("there are fewer calibration rows than two for every process", expected=least, got=rows)
        return found

    def queues(self, size: int) -> list[list[Any]]:
        """The batches of both halves of the first `size` rows for this process; a larger `size` adds to their ends."""
        found: list[list[Any]] = [[] for _ in HALVES]
        before = 0
        for step in self.sizes[: self.sizes.index(size) + 1]:
            for queue, half in zip(found, HALVES, strict=True):
                mine = self.hands.share(half.among(self.drawn.rows[before:step]))
                queue += self.as_batches(mine) if mine else []
            before = step
        return found

    def data(self, size: int) -> dict[str, Any]:
        """The fingerprint of the first `size` rows."""
        return self.fingerprint(self.drawn.first(size))

    def account(self, found: Settlement) -> dict[str, Any]:
        """The fingerprint of the rows that were read, and why so many."""
        return self.data(found.steps[-1].rows) | {"settled": found.to_mapping()}

    def recorded(self) -> Settlement:
        """The steps that an interrupted reading has decided."""
        record = self.kept / RECORD
        if record.is_file():
            content = unless_damaged(lambda: RECORDED.read_as(record, RECORD_SCHEMA), "rows are read from the first on")
            if content is not None and content["identity"] == self.identity:
                return Settlement.from_mapping(content["settled"])
        return Settlement((), len(self.drawn.rows))

    def record(self, found: Settlement) -> None:
        """Keep what is decided."""
        write_json(self.kept / RECORD, {"identity": self.identity, "settled": found.to_mapping()})

    def undecided(self, found: Settlement) -> list[int]:
        """The sizes that have to be read: those not decided, and where it is over, the last."""
        return self.sizes[len(found.steps) - found.over :]


def forget(kept: Path) -> None:
    """Remove what a reading that is over has kept in a folder."""
    for pattern in GROWING:
        for file in kept.glob(pattern):
            file.unlink()


def grow(
    model: nn.Module, targets: list[Target], growth: Growth, spectra: SpectrumCache, line: ProgressLine
) -> tuple[list[Curvature], Settlement]:
    """Read rows with a model in memory; every row once, for what is new is added to the sums of its half.

    Args:
        model: is only read.
        targets: of it.
        growth: what is read.
        spectra: decompositions, by which each step is judged.
        line: told how far it is.

    Returns:
        The sums of each half (this process's share of them), and what was seen at each step.

    Raises:
        DataError: if a process would have no rows.
    """
    hands = growth.hands
    found = hands.told(growth.recorded() if hands.leads else None)
    sums = [Growing(growth.kept / f"half-{half.number}-{hands.rank}.safetensors", growth.identity) for half in HALVES]
    while True:
        size = growth.undecided(found)[0]
        parts = [
            take(CURVATURE, model, queue, targets, growth.config, line, keep)
            for queue, keep in zip(growth.queues(size), sums, strict=True)
        ]
        if not found.over:
            seen = scored(targets, parts, growth, spectra)
            if hands.leads:
                step = Step(size, seen.tokens, agreed(targets, seen.halves, *(growth.judged or [growth.config])))
                found = found.after(step)
                growth.record(found)
            found = hands.told(found)
        if found.over:
            return parts, found


def scored(targets: Sequence[Target], parts: Sequence[Curvature], growth: Growth, spectra: SpectrumCache) -> Halved:
    """Scores of the halves of all processes together, in the one that leads."""
    seen = Halved.empty("not needed to compare")
    for target in targets:
        own = [growth.hands.total(part, target.name) for part in parts]
        if growth.hands.leads:
            seen.count(own)
            seen.score(target, spectra.get(target, growth.config.route), own, both=False)
    return seen


def grow_streamed(
    source: StreamedModel, growth: Growth, blocks: Callable[[Path, dict[str, Any]], Blocks]
) -> tuple[Blocks, Settlement]:
    """Read rows block by block: each step walks over all its rows, so that a block's moments are kept by no step.

    All walks together read at most twice the rows of the last one.

    Args:
        source: the model.
        growth: what is read.
        blocks: folder and fingerprint of the data -> what receives the scores of one walk.

    Returns:
        The scores of the last walk, and what was seen at each step.
    """
    found = growth.recorded()
    while True:
        size = growth.undecided(found)[0]
        data = growth.data(size)
        received = blocks(growth.kept / f"walk-{size}", data)  # of a walk that is over it keeps scores alone
        halves = [growth.as_batches(half.among(growth.drawn.rows[:size])) for half in HALVES]
        with ProgressLine(f"walk over the blocks of {source.name}, {size} rows") as line:
            source.walk(received, halves, growth.config, data=data, progress=line)
        if not found.over:
            seen = received.found
            seen_by = agreed(received.targets, seen.halves, *(growth.judged or [growth.config]))
            found = found.after(Step(size, seen.tokens, seen_by))
            growth.record(found)
        if found.over:
            return received, found
