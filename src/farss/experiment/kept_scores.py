"""What an evaluation has measured so far, kept in its folder part by part, so that one that failed goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from farss.errors import OutputError, StorageError
from farss.evaluation.window import Cuts
from farss.experiment.outputs import rescued
from farss.reading import AMOUNT, OBJECT, Document, object_of
from farss.settings import differences
from farss.storage import write_json
from farss.storage.owned import take, writing

RESULTS, SO_FAR, REQUEST = "results.json", "measured.json", "request.json"

NOTED = Document(
    "record of an evaluation",
    StorageError,
    most_bytes=256 << 20,
    damaged="give --fresh to measure again, or choose another --out",
)
MEASURED = object_of(
    parts={"type": "object", "additionalProperties": object_of(scores=OBJECT, seconds=AMOUNT)}, seconds=AMOUNT
)
ASKED = {
    "type": "object",
    "properties": {"data": {"type": "object", "properties": {"date": {"type": ["string", "null"]}}}},
}

Part = dict[str, Any]


class KeptScores:
    """The parts of one model's evaluation, in its folder.

    Args:
        place: the folder, there or not.
        verb: by which it is marked as made.
    """

    def __init__(self, place: Path, verb: str) -> None:
        self.place, self.verb = place, verb
        so_far = _read(place / SO_FAR, MEASURED) or {}
        self.parts: dict[str, Part] = so_far.get("parts", {})
        self.seconds: float = so_far.get("seconds", 0.0)

    @property
    def result(self) -> dict[str, Any] | None:
        """What `finish` wrote, if it did."""
        return _read(self.place / RESULTS)

    @property
    def scores(self) -> dict[str, Any]:
        """All scores so far."""
        return {name: score for part in self.parts.values() for name, score in part["scores"].items()}

    @property
    def cut(self) -> Cuts:
        """The texts so far that were longer than the model reads, by set."""
        return {name: found for part in self.parts.values() for name, found in part.get("cut", {}).items()}

    def measure(self, name: str, ask: Callable[[], Part], file: str, save: Callable[[Path], None]) -> None:
        """Measure a part unless that was done, write its samples, and note its scores.

        Args:
            name: of the part.
            ask: measures it; returns its `scores` and what else is to be kept of it, JSON-ready, with its `seconds`.
            file: receives the samples.
            save: writes them, once `ask` has returned.

        Raises:
            UnwrittenError: with all scores so far, if they could not be written.
        """
        if name in self.parts:
            return
        self.parts[name] = ask()
        self.seconds += self.parts[name]["seconds"]
        with rescued({"scores": self.scores}):
            take(self.place, self.verb)
            with writing(self.place, file, SO_FAR):
                save(self.place / file)
                write_json(self.place / SO_FAR, {"parts": self.parts, "seconds": self.seconds})

    def finish(self, result: dict[str, Any]) -> dict[str, Any]:
        """Write the result, and return it.

        Raises:
            UnwrittenError: with the result, if it could not be written.
        """
        with rescued(result):
            take(self.place, self.verb)
            with writing(self.place, RESULTS):
                write_json(self.place / RESULTS, result)
        return result


def check_same_request(place: Path, request: dict[str, Any]) -> None:
    """Make sure that a folder holds what was measured for this request, or nothing.

    Raises:
        OutputError: naming what differs, with both values.
        StorageError: if the note of what was asked is damaged.
    """
    former = _read(place / REQUEST)
    if former is None or former == request:
        return
    raise OutputError(
        "the folder holds another evaluation",
        where=place,
        got="; ".join(differences(former, request)),
        do="choose another --out, or give --fresh to begin again there",
    )


def date_of_request(place: Path) -> str | None:
    """The date in the chat template of what was measured in a folder; None where there was none.

    Raises:
        StorageError: if the note of what was asked is damaged.
    """
    return ((_read(place / REQUEST, ASKED) or {}).get("data") or {}).get("date")


def note_request(place: Path, request: dict[str, Any]) -> None:
    """Write into a marked folder what is measured there."""
    if _read(place / REQUEST) != request:
        with writing(place, REQUEST):
            write_json(place / REQUEST, request)


def _read(file: Path, schema: dict[str, Any] = OBJECT) -> dict[str, Any] | None:
    return NOTED.read_as(file, schema) if file.is_file() else None
