"""Every error farss raises on purpose, under one base class.

A message answers five questions in order: what is wrong, where, what was expected, what came, what to do.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from farss.printable import printable, shortened

LIKENESS = 0.75
"""Of two names, spelling signs aside: from here on one is taken for a slip of the other. A wrong hint costs more than
none: `report_to` is 0.53 from `dropout`."""
LONGEST_NAME = 100
SHORTEST_BEGINNING = 4
LONGEST = 2000
"""Characters of a whole message; each of its values is bounded too."""


class FarssError(Exception):
    """Something went wrong that the user can understand and act on.

    Args:
        what: the mistake in one sentence, without a trailing full stop.
        where: file, module or setting concerned.
        expected: what would have been accepted.
        got: what came instead.
        do: the next step for the user.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        expected: object = None,
        got: object = None,
        do: str | None = None,
    ) -> None:
        self.what, self.where, self.expected, self.got, self.do = what, where, expected, got, do
        parts = [printable(shortened(what, LONGEST))]
        for label, value in (("where", where), ("expected", expected), ("got", got), ("what to do", do)):
            if value is not None:
                parts.append(f"  {label}: {printable(shortened(value), lines=label != 'where')}")
        super().__init__("\n".join(parts))


class RequestError(FarssError):
    """The request itself cannot be carried out; nothing was started (exit code 2)."""

    exit_code = 2


class ConfigError(RequestError):
    """A recipe or flag has an unknown key, a wrong type or an impossible value."""


class DataError(RequestError):
    """A data set is missing, empty, or its rows lack what is needed."""


class ModelError(RequestError):
    """A model is missing, damaged, unsafe to load, or of a layout farss cannot work on."""


class PlanError(RequestError):
    """A plan is malformed, impossible, or was made for another model."""


class AdapterError(RequestError):
    """An adapter is missing, damaged, or was made for another base model."""


class ProcessesError(RequestError):
    """Several processes were started together for what one process does; nothing was loaded."""


class SandboxError(RequestError):
    """The protections that a model's code must run under are not all there, or failed."""


class ShapeError(FarssError, ValueError):
    """Tensors whose shapes must agree do not."""


class NumericalError(FarssError):
    """A computation met NaN or Inf, or missed its stated accuracy."""


class StorageError(FarssError):
    """A file could not be written or read: no space, no permission, cut short."""


class OutputError(RequestError, StorageError):
    """Results cannot go where they were to go: it holds other things, is part of an input, or cannot be written."""


class UnwrittenError(StorageError):
    """What was measured could not be written; it is here instead.

    Args:
        error: of the write.
        result: what was measured, JSON-ready.
    """

    def __init__(self, error: StorageError, result: object) -> None:
        super().__init__(error.what, where=error.where, expected=error.expected, got=error.got, do=error.do)
        self.result = result


class ResourceError(RequestError):
    """The machine is too small for the request; said before anything is loaded."""


class GateError(FarssError):
    """A measured value is below what was asked for (exit code 3); the measurement itself is written."""

    exit_code = 3


def near_names(word: object, known: Iterable[str], most: int = 1) -> list[str]:
    """The known names that `word` may be a slip of, the most alike first; empty where none is near.

    Capitals, hyphens, underscores, points and spaces do not count; the beginning of a name is near it.

    Args:
        word: what came.
        known: the names there are.
        most: at most so many.
    """
    given = _bare(str(word)[:LONGEST_NAME])
    likeness = {name: _likeness(given, _bare(name)) for name in known}
    near = sorted((name for name, alike in likeness.items() if alike >= LIKENESS), key=lambda name: -likeness[name])
    return near[:most]


def did_you_mean(word: object, known: Iterable[str]) -> str | None:
    """The question that names the known name nearest to `word`, for an error's `do`; None where none is near."""
    near = near_names(word, known)
    return f"did you mean `{near[0]}`?" if near else None


def _bare(name: str) -> str:
    return re.sub(r"[-_. ]", "", name.casefold())


def _likeness(given: str, name: str) -> float:
    if not given or not name:
        return 0.0
    begins = len(given) >= SHORTEST_BEGINNING and name.startswith(given)
    if abs(len(given) - len(name)) > max(1, len(given) // 4):  # a name inside a longer one is another name
        return LIKENESS if begins else 0.0
    alike = difflib.SequenceMatcher(None, given, name, autojunk=False).ratio()
    return max(alike, LIKENESS) if begins else alike
