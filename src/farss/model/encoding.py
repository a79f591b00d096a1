"""Rendered rows to token ids: one call of the tokenizer for many rows, and counts of what did not fit."""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from farss.config import TooLong
from farss.datasets.rendered import Rendered
from farss.errors import ConfigError, DataError
from farss.model.examples import Example

ROWS_AT_ONCE = 1000
"""Rows of one call of the tokenizer."""
LONGER_ROWS = "raise max_length or use rows with shorter prompts"
LARGER_WINDOW = "the model reads no more: use rows with shorter prompts, or a model with more positions"


class RowsWarning(UserWarning):
    """Rows that are not used as they came: left out, cut, or with fields that nothing reads."""


@dataclass(frozen=True)
class Limit:
    """The most tokens of a row.

    Attributes:
        tokens: how many.
        of_model: the model reads no more, whatever is asked for.
        too_long: what is done with longer rows.
    """

    tokens: int
    of_model: bool = False
    too_long: TooLong = "cut"


@dataclass(frozen=True)
class Encoding:
    """Rows as token ids.

    Attributes:
        kept: positions of the rows that keep a token to learn, ascending.
        examples: those rows.
        shortest: the fewest tokens that a row left out would have needed: what it reads before it learns, or all of
            it where rows are kept whole.
        cut: how many of the kept rows lost learned tokens to the length.
        dropped: how many rows are left out.
        longer: position and number of tokens of every row that is longer than allowed.
    """

    kept: list[int]
    examples: list[Example]
    shortest: int
    cut: int
    dropped: int
    longer: list[tuple[int, int]]


def report_lengths(kept: int, dropped: int, cut: int, shortest: int, limit: Limit) -> None:
    """Say in one warning each how many rows are left out as too long, and how many are cut.

    Args:
        kept: rows that keep a token to learn.
        dropped: rows that keep none.
        cut: rows of those kept that lost learned tokens.
        shortest: the fewest tokens that a row of those dropped would have needed.
        limit: the most tokens of a row, whose limit that is, and what is done with longer rows.

    Raises:
        DataError: if rows were dropped and none is kept.
    """
    total, max_length = kept + dropped, limit.tokens
    if dropped and limit.too_long == "drop":
        if not kept:
            raise DataError(
                "every row is longer than data.max_length, and such rows are dropped",
                expected=f"rows of at most {max_length} tokens",
                got=f"shortest row: {shortest} tokens",
                do=LARGER_WINDOW if limit.of_model else "raise data.max_length, or cut rows (data.too_long: cut)",
            )
        text = f"{dropped} of {total} rows are longer than {max_length} tokens and are dropped (data.too_long)"
        warnings.warn(text, RowsWarning, stacklevel=3)
        return
    if dropped and not kept:
        raise DataError(
            "no row keeps a response token after truncation",
            expected=f"prompts shorter than {max_length} tokens",
            got=f"shortest prompt: {shortest} tokens",
            do=LARGER_WINDOW if limit.of_model else LONGER_ROWS,
        )
    if dropped:
        text = f"{dropped} of {total} rows have no response token within {max_length} tokens and are left out"
        warnings.warn(text, RowsWarning, stacklevel=3)
    if cut:
        text = f"{cut} of {total} rows are longer than {max_length} tokens: the end of their answer is cut"
        warnings.warn(text, RowsWarning, stacklevel=3)


def encode_rows(
    rows: Iterable[Mapping[str, Any]],
    tokenizer: Any,
    formatter: Callable[[Mapping[str, Any]], Rendered],
    max_length: int,
) -> list[Example]:
    """The rows as token ids, at most `max_length` tokens each; see `encode`.

    Args:
        rows: mappings that `formatter` understands.
        tokenizer: a transformers tokenizer.
        formatter: row -> its text and what of it is learned.
        max_length: most tokens of a row.

    Raises:
        DataError: if there are no rows, one cannot be rendered (it is named), the tokenizer has no EOS, or no row keeps
            a response token.
    """
    texts = list[Rendered]()
    for number, row in enumerate(rows, start=1):
        try:
            texts.append(formatter(row))
        except DataError as error:
            where = f"{error.where or 'the rows'}, row {number}"
            raise DataError(error.what, where=where, expected=error.expected, got=error.got, do=error.do) from None
    found = encode(texts, tokenizer, max_length)
    report_lengths(len(found.examples), found.dropped, found.cut, found.shortest, Limit(max_length))
    return found.examples


def end_token(tokenizer: Any, text: str | None) -> int | None:
    """The id of the token that closes an answer which no template closes; None is the tokenizer's end of sequence.

    Args:
        tokenizer: a transformers tokenizer.
        text: the token as it is written, as `data.end_of_turn` names it.

    Raises:
        ConfigError: if it is no single token of the tokenizer.
    """
    if text is None:
        return None
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise ConfigError(
            "the end of a turn is no single token of the tokenizer",
            where="data.end_of_turn",
            expected="one token, as <|im_end|>",
            got=f"{text!r}, {len(ids)} tokens",
            do="add it to the tokenizer's special tokens, or write it in a chat template (data.template: FILE)",
        )
    return ids[0]


def encode(
    rows: Sequence[Rendered], tokenizer: Any, max_length: int, *, whole: bool = False, end: int | None = None
) -> Encoding:
    """Rendered rows as token ids.

    A text is tokenised as a whole, by TRL's rules: special tokens are added unless a chat template wrote them, the
    end-of-sequence token closes a text that no template closes, and a token that spans the border of what is learned is
    learned. (The template `plain` has prompt and answer tokenised apart.) Where a row is too long it loses its end, or
    with `whole` is left out; a row that keeps no token to learn is left out.

    Args:
        rows: texts and what of them is learned.
        tokenizer: a transformers tokenizer; its own rule decides whether a text starts with BOS, row by row.
        max_length: most tokens of a row.
        whole: leave out rows that are longer.
        end: id of the token that closes what no template closes; None is the tokenizer's EOS.

    Raises:
        DataError: if there are no rows, or the tokenizer has no EOS and a text needs one.
    """
    if not rows:
        raise DataError("the data set has no rows", expected="at least one row")
    end = tokenizer.eos_token_id if end is None else end
    if end is None and not all(row.closed for row in rows):
        raise DataError(
            "the tokenizer has no end-of-sequence token",
            where=getattr(tokenizer, "name_or_path", type(tokenizer).__name__),
            do="set `tokenizer.eos_token` to the token that ends an answer",
        )
    kept, examples, longer, cut, shortest = list[int](), list[Example](), list[tuple[int, int]](), 0, 0
    for number, (ids, learned) in enumerate(_tokenised(rows, tokenizer, end)):
        if len(ids) > max_length:
            longer.append((number, len(ids)))
        if any(learned[:max_length]) and not (whole and len(ids) > max_length):
            cut += any(learned[max_length:])
            kept.append(number)
            examples.append(Example.marked(ids[:max_length], learned[:max_length]))
        else:
            needed = learned.index(True) if True in learned and not whole else len(learned)
            shortest = min(needed, shortest or needed)
    return Encoding(kept, examples, shortest, cut, len(rows) - len(kept), longer)


def encode_prompts(prompts: Iterable[str], tokenizer: Any, max_length: int) -> list[Example]:
    """Texts that are only read, as token ids without a response, at most `max_length` tokens each.

    Args:
        prompts: the texts.
        tokenizer: a transformers tokenizer; its own rule decides whether a text starts with BOS.
        max_length: most tokens of a text; the rest is cut.

    Raises:
        DataError: if there are no texts, or one has no token.
    """
    texts = list(prompts)
    examples = [Example(tuple(ids[:max_length]), ()) for ids, _ in _ids(texts, [False] * len(texts), tokenizer)]
    if not examples or not all(len(example) for example in examples):
        raise DataError("a text to take statistics from is empty", got=f"{len(examples)} texts")
    return examples


Marked = tuple[list[int], list[bool]]
Tokens = tuple[list[int], "Sequence[tuple[int, int]] | None"]


def _tokenised(rows: Sequence[Rendered], tokenizer: Any, end: int | None) -> Iterable[Marked]:
    """(Token ids, whether each is learned) of every row, in order."""
    queue = iter(rows)
    while chunk := list(islice(queue, ROWS_AT_ONCE)):
        whole = [row for row in chunk if row.divided is None]
        apart = [row for row in chunk if row.divided is not None]
        found = {id(row): made for row, made in zip(whole, _of_one_piece(whole, tokenizer, end), strict=True)}
        found |= {id(row): made for row, made in zip(apart, _of_two_pieces(apart, tokenizer, end), strict=True)}
        yield from (found[id(row)] for row in chunk)


def _of_two_pieces(rows: Sequence[Rendered], tokenizer: Any, end: int | None) -> Iterable[Marked]:
    prompts = [row.text[: row.divided] for row in rows]
    answers = [row.text[row.divided :] for row in rows]
    read = _ids(prompts, [False] * len(rows), tokenizer)
    learned = _ids(answers, [True] * len(rows), tokenizer)
    for row, (prompt, _), (answer, _) in zip(rows, read, learned, strict=True):
        closed = _closed(answer, end)
        marks = [row.learned[0][0] == 0] * len(prompt) + [True] * len(closed)
        yield [*prompt, *closed], [False, *marks[1:]] if prompt else marks


def _of_one_piece(rows: Sequence[Rendered], tokenizer: Any, end: int | None) -> Iterable[Marked]:
    found = _ids([row.text for row in rows], [row.opened for row in rows], tokenizer, places=True)
    for row, (ids, places) in zip(rows, found, strict=True):
        learned = _learned(row, ids, places, tokenizer)
        if not row.closed:
            ids = _closed(ids, end)
            learned += [True] * (len(ids) - len(learned))
        if learned:
            learned[0] = False  # nothing predicts the first token
        yield ids, learned


def _closed(ids: list[int], end: int | None) -> list[int]:
    """The tokens, with the one that ends an answer behind them if it is not there."""
    assert end is not None  # looked at before a row is tokenised
    return ids if ids and ids[-1] == end else [*ids, end]


def _ids(texts: Sequence[str], opened: Sequence[bool], tokenizer: Any, *, places: bool = False) -> list[Tokens]:
    """Token ids of texts, and where in its text each token is if asked and the tokenizer can say.

    A text that holds its special tokens (`opened`, or it begins with BOS) gets none; a second BOS changes answers.
    """
    bos = tokenizer.bos_token
    bare = [held or (bool(bos) and text.startswith(bos)) for text, held in zip(texts, opened, strict=True)]
    more = {"return_offsets_mapping": True} if places and getattr(tokenizer, "is_fast", False) else {}
    found: list[Tokens] = [([], None)] * len(texts)
    for without in (False, True):
        chosen = [i for i, plain in enumerate(bare) if plain is without]
        if not chosen:
            continue
        made = tokenizer([texts[i] for i in chosen], add_special_tokens=not without, **more)
        offsets = made["offset_mapping"] if more else [None] * len(chosen)
        for i, ids, where in zip(chosen, made["input_ids"], offsets, strict=True):
            found[i] = _without_added_end(list(ids), texts[i], tokenizer), where
    return found


def _without_added_end(ids: list[int], text: str, tokenizer: Any) -> list[int]:
    eos = tokenizer.eos_token_id
    if ids and eos is not None and ids[-1] == eos and not text.endswith(tokenizer.eos_token):
        return ids[:-1]  # encoder-style tokenizers close every text; what comes is not the end of an answer
    return ids


def _learned(row: Rendered, ids: list[int], places: Sequence[tuple[int, int]] | None, tokenizer: Any) -> list[bool]:
    """Whether each token is learned: those of a learned part, and those that span its borders."""
    learned = [False] * len(ids)
    for begin, end in row.learned:
        first = _first_beyond(begin, row, ids, places, tokenizer)
        last = _first_beyond(end, row, ids, places, tokenizer)
        spans = places is not None and last < len(ids) and places[last][0] < end < places[last][1]
        for position in range(first, last + spans):
            learned[position] = True
    return learned


def _first_beyond(
    border: int, row: Rendered, ids: list[int], places: Sequence[tuple[int, int]] | None, tokenizer: Any
) -> int:
    """The first token that has characters beyond `border`."""
    if border >= len(row.text):
        return len(ids)
    if places is None:  # the beginning of the text has its tokens in common with the whole, but for a spanning one
        ((before, _),) = _ids([row.text[:border]], [row.opened], tokenizer)
        differ = (i for i, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b)
        return next(differ, min(len(before), len(ids)))
    return bisect_right(places, border, hi=len(ids), key=lambda place: place[1])
