"""What became of the rows of a set, or of several that are trained on together: said in lines, and in results."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from farss.errors import DataError
from farss.model.encoding import Limit, RowsWarning, report_lengths


class Counted(Protocol):
    """A row that is counted."""

    @property
    def set(self) -> str:
        """The set it is of, as its account calls it."""
        ...

    @property
    def question(self) -> str:
        """What it asks."""
        ...


@dataclass
class Account:
    """What became of the rows of one set, JSON-ready by `summary`.

    Attributes:
        set: the name, and the split where there are some.
        read: rows of the set.
        bad: rows left out because they could not be read or rendered.
        first_bad: the first of them, and why.
        held_out: rows that are only measured.
        validation: rows that choose between trials.
        used: rows put to the use that is accounted for.
        left_out: rows of which no learned token fits in `data.max_length`, or that are longer and are to be whole.
        cut: rows whose learned part lost its end to it.
        shortest: the fewest tokens that a row left out would have needed.
        repeated: rows used that ask what a row of an earlier set asks.
        unused_fields: fields that nothing reads, each with the number of its rows.
        sha256: of the questions of the rows used.
        parts: the accounts of the sets, where several are taken together.
    """

    set: str
    read: int = 0
    bad: int = 0
    first_bad: str | None = None
    held_out: int = 0
    validation: int = 0
    used: int = 0
    left_out: int = 0
    cut: int = 0
    shortest: int = 0
    repeated: int = 0
    unused_fields: dict[str, int] = field(default_factory=dict)
    sha256: str = ""
    parts: tuple[Self, ...] = ()

    @classmethod
    def together(cls, parts: Sequence[Self]) -> Self:
        """The account of several sets as one; counts of rows not yet used are added up."""
        unused = sum((Counter(part.unused_fields) for part in parts), Counter[str]())
        return cls(
            " + ".join(part.set for part in parts),
            read=sum(part.read for part in parts),
            bad=sum(part.bad for part in parts),
            first_bad=next((part.first_bad for part in parts if part.first_bad), None),
            held_out=sum(part.held_out for part in parts),
            validation=sum(part.validation for part in parts),
            unused_fields=dict(unused),
            parts=tuple(parts),
        )

    def skip(self, error: DataError, of: str) -> None:
        """Count a row of the set `of` that is left out."""
        for account in (self, *(part for part in self.parts if part.set == of)):
            account.bad += 1
            account.first_bad = account.first_bad or f"{error.where}: {error.what}"

    def use(self, rows: Sequence[Counted]) -> None:
        """Note which rows are used."""
        self.used = len(rows)
        text = "\n".join(row.question for row in rows)
        self.sha256 = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        before = set[str]()
        for part in self.parts:
            own = [row for row in rows if row.set == part.set]
            part.use(own)
            part.repeated = sum(row.question in before for row in own)
            before |= {row.question for row in own}
        self.repeated = sum(part.repeated for part in self.parts)

    def summary(self) -> dict[str, Any]:
        """The account for a result; of several sets with the account of each under `sets`."""
        hidden = {"shortest", "parts"} | (set() if self.parts else {"repeated"})
        found = {name: value for name, value in vars(self).items() if name not in hidden}
        sets = [{name: value for name, value in vars(part).items() if name in OF_EACH} for part in self.parts]
        return found | ({"sets": sets} if sets else {})

    def finish(self, limit: Limit) -> None:
        """Say how many rows did not fit and how many were cut, in one line each.

        Raises:
            DataError: if no row is left.
        """
        report_lengths(self.used, self.left_out, self.cut, self.shortest, limit)
        if self.repeated:
            say(f"{self.set}: {self.repeated} of {self.used} rows ask what a row of an earlier set asks; all are used")
        if not self.used:
            raise DataError("no row is left", where=self.set, got=self.first_bad)

    def warn(self) -> None:
        """Say in one line each what was left out and what nothing reads."""
        if self.bad:
            say(f"{self.set}: {self.bad} of {self.read} rows left out, the first: {self.first_bad}")
        if self.unused_fields:
            named = ", ".join(f"{name} ({count})" for name, count in self.unused_fields.items())
            say(f"{self.set}: fields that nothing reads, with their rows: {named}")


OF_EACH = ("set", "read", "bad", "first_bad", "held_out", "used", "repeated", "sha256")
"""What is told of each of several sets; lengths are counted over all of them."""


def say(text: str) -> None:
    """Say something about rows, as a warning of its own kind."""
    warnings.warn(text, RowsWarning, stacklevel=3)
