"""Which of the training rows statistics are taken of."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from farss.config import MOST_ROWS

Kept = TypeVar("Kept")


@dataclass(frozen=True)
class Drawn(Generic[Kept]):
    """Calibration rows in the order in which they are drawn: the first of them are a random sample, however many.

    Attributes:
        rows: in that order.
        places: of each among the rows they are drawn from.
        account: what became of all rows, JSON-ready; None where nobody counted.
    """

    rows: list[Kept]
    places: list[int]
    account: dict[str, Any] | None = None

    def first(self, count: int) -> list[Kept]:
        """The first `count` of them, in the order of the rows they are drawn from."""
        return [self.rows[i] for i in sorted(range(min(count, len(self.rows))), key=self.places.__getitem__)]


def draw(examples: list[Kept], rows: int, seed: int, order: str = "random") -> Drawn[Kept]:
    """Calibration rows: a seeded random sample of the training examples, `rows` of them or all there are.

    Samples of up to `MOST_ROWS` rows are the beginnings of one. With the order "first" they are the first ones.
    """
    count = len(examples)
    if order == "first":
        return Drawn(examples[:rows], list(range(min(rows, count))))
    places = random.Random(seed).sample(range(count), min(max(rows, MOST_ROWS), count))[:rows]
    return Drawn([examples[i] for i in places], places)
