"""Rows that choose between the trials of a method: never trained on, never scored."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import Protocol, TypeVar

from farss.errors import DataError


class Asking(Protocol):
    """A row that says what it asks, by which rows are told apart."""

    @property
    def question(self) -> str:
        """Two rows with one question are one for this purpose."""
        ...


Item = TypeVar("Item", bound=Asking)


def hold_out(
    rows: Sequence[Item],
    scored: Collection[str],
    *,
    wanted: int,
    limit: int | None,
    seed: int,
    where: str,
) -> tuple[list[Item], list[Item]]:
    """Training rows and validation rows, of one set of training rows.

    The rows are shuffled as a limit shuffles them; training takes the first ones and validation the last ones, so that
    a limit that leaves room keeps the training rows it would give alone.

    Args:
        rows: all training rows, in file order.
        scored: questions of the rows that are scored; none of them is taken for validation.
        wanted: number of validation rows.
        limit: most training rows, None for all that are left, which then keep the file's order.
        seed: of the shuffle.
        where: the set, for messages.

    Returns:
        (training, validation); no question is in both.

    Raises:
        DataError: if there are too few rows.
    """
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    chosen: dict[str, int] = {}
    for index in reversed(order):
        if len(chosen) == wanted:
            break
        if rows[index].question not in scored:
            chosen.setdefault(rows[index].question, index)
    held = set(chosen.values())
    left = [i for i in (sorted(order) if limit is None else order) if i not in held]
    training = [rows[i] for i in left if rows[i].question not in chosen][:limit]
    if len(chosen) < wanted or not training:
        raise DataError(
            "too few training rows to hold some out for validation",
            where=where,
            expected=f"more than {wanted} questions that are not scored",
            got=f"{len(rows)} rows",
            do="lower validation_rows",
        )
    return training, [rows[i] for i in chosen.values()]


def sample_apart(rows: Sequence[Item], scored: Collection[str], *, wanted: int, seed: int) -> list[Item]:
    """At most `wanted` rows of a validation split whose questions are not scored, a seeded sample; none may be left."""
    apart = [row for row in rows if row.question not in scored]
    random.Random(seed).shuffle(apart)
    return apart[:wanted]


def require_apart(validation: Collection[str], others: Collection[str], what: str) -> None:
    """Refuse validation questions that are used for anything else.

    Args:
        validation: the questions that choose between trials.
        others: questions of another use.
        what: that use, for the message.

    Raises:
        DataError: with the number of questions in both.
    """
    both = set(validation) & set(others)
    if both:
        raise DataError(
            f"validation rows are among the rows that are {what}",
            expected="rows that do nothing but choose between trials",
            got=f"{len(both)} of {len(set(validation))}, for example {min(both)[:200]}",
            do="remove the repeated rows from the data set, or set select: none",
        )
