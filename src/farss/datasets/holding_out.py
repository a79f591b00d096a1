"""Rows held out of one list of rows by what they ask, so that the choice survives rows that are added later."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from farss.errors import DataError

SALT = "held out of one list of rows"
"""What is hashed with a question. It is no setting: rows held out by one call are held out by every other."""


def held_out(questions: Sequence[str], share: float, where: str) -> list[bool]:
    """For each row, whether it is held out; rows with one question are on one side.

    Args:
        questions: what each row asks.
        share: of the questions to hold out; above 0 at least one is, below 1 at least one is not.
        where: the set, for messages.

    Raises:
        DataError: if there are too few questions for both.
    """
    places = {question: _place(question) for question in dict.fromkeys(questions)}
    chosen = {question for question, place in places.items() if place < share}
    if 0 < share < 1:
        if len(places) < 2:
            raise DataError(
                "too few rows to hold some out",
                where=where,
                expected="at least two questions",
                got=f"{len(questions)} rows, {len(places)} questions",
                do="set data.held_out: 0 to train on all, or 1 to measure on all",
            )
        ordered = sorted(places, key=places.__getitem__)
        chosen = (chosen or {ordered[0]}) - ({ordered[-1]} if len(chosen) == len(places) else set())
    return [question in chosen for question in questions]


def _place(question: str) -> float:
    """A number in [0, 1) that depends on the question alone."""
    digest = hashlib.sha256(f"{SALT}\n{question}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) / 2**64
