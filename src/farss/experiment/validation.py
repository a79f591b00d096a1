"""Rows that choose between the trials of a method: never trained on, never scored."""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Sequence
from typing import Any

from farss.datasets.formats import TaskFormat
from farss.errors import DataError

Rows = list[dict[str, Any]]


def question_of(form: TaskFormat, row: dict[str, Any]) -> str:
    """What a row asks, by which rows are told apart: two rows with one question are one for this purpose."""
    return json.dumps(form.messages(row), sort_keys=True, ensure_ascii=False)


def hold_out(
    rows: Sequence[dict[str, Any]],
    form: TaskFormat,
    scored: Collection[str],
    *,
    wanted: int,
    limit: int | None,
    seed: int,
) -> tuple[Rows, Rows]:
    """Training rows and validation rows, of one set of training rows.

    The rows are shuffled as `load_rows` shuffles them; training takes the first ones and validation the last ones, so
    that a limit that leaves room keeps the training rows it would give alone.

    Args:
        rows: all training rows, in file order.
        form: how they are read.
        scored: questions of the rows that are scored; none of them is taken for validation.
        wanted: number of validation rows.
        limit: most training rows, None for all that are left, which then keep the file's order.
        seed: of the shuffle.

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
        question = question_of(form, rows[index])
        if question not in scored:
            chosen.setdefault(question, index)
    held = set(chosen.values())
    left = [i for i in (sorted(order) if limit is None else order) if i not in held]
    training = [rows[i] for i in left if question_of(form, rows[i]) not in chosen][:limit]
    if len(chosen) < wanted or not training:
        raise DataError(
            "too few training rows to hold some out for validation",
            where=form.name,
            expected=f"more than {wanted} questions that are not scored",
            got=f"{len(rows)} rows",
            do="lower validation_rows",
        )
    return training, [rows[i] for i in chosen.values()]


def sample_apart(rows: Rows, form: TaskFormat, scored: Collection[str], *, wanted: int, seed: int) -> Rows:
    """At most `wanted` rows of a validation split whose questions are not scored, a seeded sample; none may be left."""
    apart = [row for row in rows if question_of(form, row) not in scored]
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
