"""General text as a task set without prompts: the language-model loss that says whether a model still writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from farss.errors import DataError
from farss.evaluation.prefix import encode
from farss.evaluation.task import TaskSet
from farss.model.calibration import Example

FIELD = "text"


def check_texts(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Check that every row has text.

    Raises:
        DataError: naming the row that lacks the field.
    """
    for number, row in enumerate(rows):
        if not isinstance(row.get(FIELD), str):
            raise DataError("a row of general text lacks its text", where=f"{name}, row {number}", expected=FIELD)


def text_windows(
    name: str, rows: Sequence[Mapping[str, Any]], tokenizer: Any, *, width: int, most: int | None = None
) -> TaskSet:
    """The rows' text, one after the other, cut into windows of equal length that do not overlap.

    The first token of a window is read, the others are predicted, so that every model is asked for the same tokens.

    Args:
        name: of the text, kept in the samples.
        rows: mappings with the field `text`.
        tokenizer: its tokenizer.
        width: tokens of a window, at least 2.
        most: at most so many windows, the first ones; None for all.

    Raises:
        DataError: if a row lacks the field, or there is too little text for one window.
    """
    check_texts(name, rows)
    (ids,) = encode(tokenizer, ["\n".join(row[FIELD] for row in rows)])
    windows = [ids[start : start + width] for start in range(0, len(ids) - width + 1, width)][:most]
    if not windows:
        raise DataError("there is too little text for one window", where=name, expected=f"{width} tokens", got=len(ids))
    examples = [Example(tuple(window[:1]), tuple(window[1:])) for window in windows]
    return TaskSet(name, examples, [""] * len(examples), [None] * len(examples))
