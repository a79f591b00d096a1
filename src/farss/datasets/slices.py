"""A part of a split: `train[:1000]`, `train[100:200]`, `test[90%:]`, as `datasets` writes it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

from farss.errors import DataError

Item = TypeVar("Item")

_PART = re.compile(r"(?P<split>[^\[\]]+)(\[(?P<start>-?\d{0,12}%?):(?P<stop>-?\d{0,12}%?)\])?")


@dataclass(frozen=True)
class Part:
    """A split and which of its rows.

    Attributes:
        split: the split's name.
        start: where the part begins, in rows or with `%`; a negative one counts from the end, "" is the beginning.
        stop: where it ends; "" is the end.
    """

    split: str
    start: str = ""
    stop: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The part that `text` names.

        Raises:
            DataError: if it is not of the form NAME or NAME[START:STOP].
        """
        found = _PART.fullmatch(text.strip())
        if found is None or "-%" in text or "[%" in text or ":%" in text:
            raise DataError(
                "a part of a split cannot be read", expected="train | train[:1000] | train[10%:20%]", got=text
            )
        return cls(found["split"].strip(), found["start"] or "", found["stop"] or "")

    def of(self, rows: Sequence[Item]) -> list[Item]:
        """The part of `rows`, in order."""
        return list(rows[self._place(self.start, len(rows)) : self._place(self.stop, len(rows))])

    def _place(self, bound: str, total: int) -> int | None:
        if not bound:
            return None
        return round(int(bound[:-1]) * total / 100) if bound.endswith("%") else int(bound)
