"""Texts against what the model reads: no token without an embedding, no position beyond its window.

What is cut is counted for the results: `counting_cuts` around a measurement, `asking` around what is asked of one set.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from farss.errors import DataError
from farss.evaluation.prefix import inner_model
from farss.model.tables import GIVE_ROWS, embedding_rows, window_of

Cuts = dict[str, dict[str, int]]
"""Set -> its texts, those of them that lost their beginning, and the tokens that the model reads; sets that lost none
are not in it. A text is a question with one of its answers, or a question to be answered."""

_counted: ContextVar[Cuts | None] = ContextVar("counted", default=None)
_asked: ContextVar[str] = ContextVar("asked", default="texts")


@contextmanager
def counting_cuts() -> Iterator[Cuts]:
    """The texts cut inside the block, by set; complete when it ends."""
    cuts: Cuts = {}
    before = _counted.set(cuts)
    try:
        yield cuts
    finally:
        _counted.reset(before)
        for name in [name for name, found in cuts.items() if not found["cut"]]:
            del cuts[name]


@contextmanager
def asking(name: str) -> Iterator[None]:
    """What is read inside the block is of this set."""
    before = _asked.set(name)
    try:
        yield
    finally:
        _asked.reset(before)


def count_cut(texts: int, cut: int, window: int) -> None:
    """Add to the count of the measurement under way, if one counts."""
    cuts = _counted.get()
    if cuts is not None:
        found = cuts.setdefault(_asked.get(), {"texts": 0, "cut": 0, "window": window})
        found["texts"] += texts
        found["cut"] += cut


def check_embedded(model: Any, texts: Sequence[Sequence[int]]) -> None:
    """Check that every token of every text has an embedding.

    Raises:
        DataError: naming the text, by its number, and the token id.
    """
    rows = embedding_rows(inner_model(model))
    for number, ids in enumerate(texts):
        if ids and max(ids) >= rows:
            raise DataError(
                "a token has no embedding in the model",
                where=f"text {number}",
                expected=f"token ids from 0 to {rows - 1}",
                got=f"id {max(ids)}",
                do=GIVE_ROWS,
            )


def within_window(model: Any, contexts: Sequence[Sequence[int]], following: Sequence[int]) -> list[tuple[int, ...]]:
    """The contexts, each without so much of its beginning as does not fit before what follows it.

    Every text is cut by its own length alone, so that the rest of a set changes nothing. One warning counts them, and
    so does `counting_cuts`.

    Args:
        model: whose configuration bounds the length.
        contexts: token ids, at least one each.
        following: per context, the tokens that the model reads after it.

    Raises:
        DataError: if what follows leaves no room for a single token before it.
    """
    window = window_of(inner_model(model).config)
    if window is None:
        return [tuple(context) for context in contexts]
    rooms = [window - read for read in following]
    if min(rooms) < 1:
        raise DataError(
            "an answer is longer than the model reads",
            where=f"text {rooms.index(min(rooms))}",
            expected=f"at most {window} tokens, with one before it",
            got=f"{max(following)} tokens",
            do="leave it out, or name a model with more positions",
        )
    cut = sum(len(context) > room for context, room in zip(contexts, rooms, strict=True))
    count_cut(len(contexts), cut, window)
    if cut:
        warnings.warn(
            f"{cut} of {len(contexts)} texts are longer than the {window} tokens that the model reads; "
            "their beginning is left out",
            stacklevel=3,
        )
    return [tuple(context[-room:]) for context, room in zip(contexts, rooms, strict=True)]
