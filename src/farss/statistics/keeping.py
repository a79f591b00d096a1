"""The sums of a pass under way, kept so that an interrupted one goes on from them, to the same bits."""

from __future__ import annotations

import time
from pathlib import Path

from farss.errors import StorageError
from farss.foreign import foreign
from farss.model.loss import SupervisedLoss
from farss.reading import unless_damaged
from farss.statistics.observing import DataPass
from farss.statistics.summed import Summed, notes_of

KEEP_SECONDS = 60.0


class Keep:
    """The sums of a pass under way, in a file.

    Args:
        path: the file.
        identity: of model, data and settings; a file of another identity is not used.
        seconds: least time between two writes, which take the longer the larger the sums are; None means a minute.
    """

    def __init__(self, path: str | Path, identity: str, seconds: float | None = None) -> None:
        self.path, self.identity = Path(path), identity
        self.seconds = KEEP_SECONDS if seconds is None else seconds
        self.last = time.monotonic()

    def restore(self, run: DataPass, reader: SupervisedLoss) -> int:
        """Put the kept sums, if there are any, into a pass about to begin; the number of batches they hold."""
        if not self.path.is_file():
            return 0
        return unless_damaged(lambda: self._restored(run, reader), "rows are read from the first on") or 0

    def _restored(self, run: DataPass, reader: SupervisedLoss) -> int:
        notes = notes_of(self.path)
        if notes.get("identity") != self.identity:
            return 0
        kept = type(run.summed).load(self.path)
        run.summed.check_like(kept)
        with foreign(StorageError, "the kept sums cannot be used", where=self.path):
            batches = int(notes["batches"])
            reader.set_random_state(bytes.fromhex(notes["random_state"]))
        run.summed.take(kept)
        run.summed.restored = run.summed.counts[-1]
        return batches

    def offer(self, run: DataPass, reader: SupervisedLoss, batches: int) -> None:
        """Write the sums after so many batches, unless they were written a moment ago."""
        if time.monotonic() - self.last < self.seconds:
            return
        random_state = reader.random_state().hex()
        notes = {"identity": self.identity, "batches": str(batches), "random_state": random_state}
        run.summed.save(self.path, notes)
        self.last = time.monotonic()

    def end(self, run: DataPass, reader: SupervisedLoss, batches: int) -> None:
        """Called when a pass has read all its batches, and before gradients are freed of the loss scale."""


class Growing(Keep):
    """The sums of a pass whose batches become more: the next pass, over a longer queue, reads the new ones alone.

    The sums stay in memory between two passes and are written as `Keep` writes them, so that an interrupted row of
    passes goes on too, and ends with the same bits.
    """

    sums: Summed | None = None
    batches = 0
    random_state = b""

    def restore(self, run: DataPass, reader: SupervisedLoss) -> int:
        """Let a pass about to begin add to the sums in memory, or else to those in the file."""
        if self.sums is None:
            return super().restore(run, reader)
        run.adopt(self.sums)
        reader.set_random_state(self.random_state)
        return self.batches

    def end(self, run: DataPass, reader: SupervisedLoss, batches: int) -> None:
        """Remember the sums for the next pass, and write them unless that was done a moment ago."""
        self.sums, self.batches, self.random_state = run.summed, batches, reader.random_state()
        self.offer(run, reader, batches)
