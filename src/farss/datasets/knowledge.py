"""Knowledge sets: questions with their accepted answers and distractors, behind one few-shot beginning.

What is scored is `prefix + prompt + " " + answer`; prompts never end in a space and answers never begin with one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from farss.datasets.facts import balanced, draw_distractors, same_answer
from farss.datasets.resolve import has_split, load_rows
from farss.errors import DataError
from farss.reading import loads

LONGEST_QUESTION = 32_768
"""Characters of a question or of one answer: all of them are read at once, and attention grows with their square."""

Row = Mapping[str, Any]
Load = Callable[..., list[dict[str, Any]]]
"""Fetches rows, called as `load_rows` is."""


@dataclass(frozen=True)
class Question:
    """One question of a knowledge set.

    Attributes:
        set: name of the set.
        id: of the question within the set; the same whatever the number of rows, shots or the seed.
        prompt: the question as asked, without the few-shot prefix, ending right before the space and the answer.
        answers: accepted answers, the gold one first, without leading space.
        distractors: three fixed wrong answers of the same relation, fewer or none where a set offers none.
        relation: kind of fact, or None.
    """

    set: str
    id: str
    prompt: str
    answers: tuple[str, ...]
    distractors: tuple[str, ...]
    relation: str | None


@dataclass(frozen=True)
class KnowledgeSet:
    """Questions that share a beginning: `prefix` holds the worked examples and the line breaks after them."""

    name: str
    prefix: str
    questions: list[Question]


@dataclass(frozen=True)
class Style:
    """How a question and its answer are written, and what stands between two of them."""

    prompt: str
    answered: str
    separator: str
    ask: Literal["question", "as-is"] = "question"

    def render(self, text: str) -> str:
        """The prompt of a question text; questions end in a question mark."""
        text = text.strip()
        if self.ask == "question" and not text.endswith(("?", ".", "!", '"')):
            text += "?"
        return self.prompt.format(text)

    def example(self, text: str, answer: str) -> str:
        """A question with its answer, as one demonstration and what separates it from the next."""
        return self.answered.format(self.render(text), answer) + self.separator


QUESTION_ANSWER = Style("Question: {}\nAnswer:", "{} {}", "\n\n")
Q_A = Style("Q: {}\nA:", "{} {}", "\n\n")
CLOZE = Style("{}", "{} {}.", "\n", "as-is")


@dataclass(frozen=True)
class Source:
    """Which rows a knowledge set reads, from which fields, and how it asks.

    Attributes:
        style: how prompts are written.
        rows: name of the data set, None for the knowledge set's own.
        text: field of the question or of the beginning of a sentence.
        answers: fields of the accepted answers, gold first; a text, a list, or TriviaQA's record.
        relation: field of the kind of fact, if any.
        shots: split the demonstrations come from; None for sets that are asked without any.
    """

    style: Style
    rows: str | None = None
    text: str = "question"
    answers: tuple[str, ...] = ("answer",)
    relation: str | None = None
    shots: str | None = "train"


_FACTS = Source(Q_A, "facts", "question", ("answer", "aliases"), "relation", "shots")

SOURCES: Mapping[str, Source] = {
    "facts": _FACTS,
    "facts_rephrased": replace(_FACTS, text="rephrased"),
    "facts_cloze": replace(_FACTS, style=CLOZE, text="cloze"),
    "trivia_qa": Source(QUESTION_ANSWER),
    "nq_open": Source(Q_A),
    "web_questions": Source(QUESTION_ANSWER, answers=("answers",)),
    "popqa": Source(Q_A, answers=("obj", "possible_answers"), relation="prop"),
    "known_1000": Source(CLOZE, text="prompt", answers=("attribute",), relation="relation_id", shots=None),
}


def load_knowledge(
    name: str,
    *,
    rows: int | None = None,
    shots: int = 5,
    data_dir: str | Path | None = None,
    seed: int = 0,
    load: Load = load_rows,
) -> KnowledgeSet:
    """A knowledge set, ready to be asked.

    Args:
        name: a set of `SOURCES`, or anything `load_rows` finds whose rows have `question` and `answer` or `answers`,
            or `prompt` and `attribute` (sentences to be completed).
        rows: at most this many questions; a smaller number asks a prefix of what a larger one asks.
        shots: worked examples before each question. They come from the set's training rows (embedded facts: rows
            kept back for it), or, where there are none, from the set itself, and are then not asked.
        data_dir: folder laid out as `NAME/SPLIT.jsonl.gz`.
        seed: chooses and orders shots and questions; ids and distractors do not depend on it.
        load: how rows are fetched.

    Raises:
        DataError: if the set is missing or empty, has too few rows, or a row lacks a field (named with its number).
    """
    if shots < 0 or (rows is not None and rows < 1):
        raise DataError("shots must be 0 or more and rows 1 or more", where=name, got=f"shots={shots}, rows={rows}")
    source, entries, pool, ordered = _drawn(name, data_dir, seed, load, shots > 0)
    examples: list[Entry] = []
    if shots and source.shots is not None:
        examples, ordered = (pool[:shots], ordered) if pool is not None else (ordered[:shots], ordered[shots:])
        _check_enough(name, shots, len(examples), len(ordered))
    golds = _golds(entries)
    return KnowledgeSet(
        name=name,
        prefix="".join(source.style.example(entry.text, entry.answers[0]) for entry in examples),
        questions=[_question(name, source, entry, golds) for entry in ordered[:rows]],
    )


def unasked_prompts(
    name: str,
    rows: int,
    *,
    asked: int | None = 0,
    shots: int = 5,
    data_dir: str | Path | None = None,
    seed: int = 0,
    load: Load = load_rows,
) -> list[str]:
    """Prompts of questions that `load_knowledge` with the same seed does not ask, for statistics on knowledge.

    They come from the set's training rows (embedded facts: rows kept back for demonstrations), or, where there are
    none, from the rows of the set itself that are neither asked nor demonstrations.

    Args:
        name: as in `load_knowledge`.
        rows: at most this many.
        asked: how many questions of the set are asked; None is all, 0 where the set is not asked.
        shots: worked examples before each question.
        data_dir: folder laid out as `NAME/SPLIT.jsonl.gz`.
        seed: chooses and orders the rows, as in `load_knowledge`.
        load: how rows are fetched.

    Raises:
        DataError: if the set is missing, or no row of it is left.
    """
    source, _, pool, ordered = _drawn(name, data_dir, seed, load)
    if pool is None:
        first = shots if source.shots is not None else 0
        pool = [] if asked is None else ordered[first + asked :] if asked else ordered
    if not pool:
        raise DataError(
            "every question of the knowledge set is asked, so none is left to take statistics from",
            where=name,
            expected="training rows beside the set, or questions that are not asked",
            do="lower eval.knowledge_rows, or name another set with data.knowledge_calibration",
        )
    return [source.style.render(entry.text) for entry in pool[:rows]]


def _drawn(
    name: str, data_dir: str | Path | None, seed: int, load: Load, split_off: bool = True
) -> tuple[Source, list[Entry], list[Entry] | None, list[Entry]]:
    """How a set is read, its entries, its demonstrations (None: not split off, or not wanted), and the seeded order."""
    known = SOURCES.get(name)
    where = (known.rows if known else None) or name
    asked = load(where, "test", data_dir=data_dir)
    source = known or _guess(name, asked)
    entries = _entries(name, source, asked)
    pool = None
    if split_off and source.shots is not None and has_split(where, source.shots, data_dir=data_dir):
        pool = _ordered(_entries(name, source, load(where, source.shots, data_dir=data_dir)), source, seed)
    return source, entries, pool, _ordered(entries, source, seed)


@dataclass(frozen=True)
class Entry:
    """What is read from one row."""

    id: str
    text: str
    answers: tuple[str, ...]
    relation: str | None
    distractors: tuple[str, ...] | None


def _guess(name: str, rows: Sequence[Row]) -> Source:
    first = rows[0]
    relation = next((field for field in ("relation", "relation_id") if field in first), None)
    gold = next((field for field in ("answers", "answer", "attribute", "possible_answers") if field in first), None)
    if gold and "question" in first:
        return Source(Q_A, text="question", answers=(gold,), relation=relation)
    if gold and "prompt" in first:
        return Source(CLOZE, text="prompt", answers=(gold,), relation=relation, shots=None)
    raise DataError(
        "the rows are no knowledge questions",
        where=f"{name}, row 1",
        expected="question | prompt, and answer | answers | attribute",
        got=", ".join(first) or "no fields",
    )


def _entries(name: str, source: Source, rows: Sequence[Row]) -> list[Entry]:
    return [_entry(row, source, number, f"{name}, row {number + 1}") for number, row in enumerate(rows)]


def _entry(row: Row, source: Source, number: int, where: str) -> Entry:
    text = row.get(source.text)
    missing = [field for field in (source.text, *source.answers) if field not in row]
    if missing or not isinstance(text, str) or not text.strip():
        raise DataError(
            "a row lacks what a question needs",
            where=where,
            expected=", ".join((source.text, *source.answers)),
            got=", ".join(row) or "no fields",
        )
    answers = _distinct([answer for field in source.answers for answer in _texts(row[field], where)])
    if not answers:
        raise DataError(
            "a row has no answer", where=where, expected=", ".join(source.answers), got=str(dict(row))[:200]
        )
    longest = max(len(part) for part in (text, *answers))
    if longest > LONGEST_QUESTION:
        raise DataError(
            "a question is longer than can be asked",
            where=where,
            expected=f"at most {LONGEST_QUESTION:,} characters, and as many for an answer",
            got=f"{longest:,}",
        )
    own = row.get("distractors")
    return Entry(
        id=str(row["id"]) if source.rows else str(number),
        text=text,
        answers=answers,
        relation=str(row[source.relation]) if source.relation and row.get(source.relation) is not None else None,
        distractors=tuple(_texts(own, where)) if own is not None else None,
    )


def _texts(value: object, where: str) -> list[str]:
    """A text, a list of texts (or the JSON of one, as PopQA has it), or TriviaQA's answer record, as texts."""
    if isinstance(value, Mapping):
        parts = (value.get("value"), value.get("aliases"), value.get("normalized_aliases"))
        return [text for part in parts if part is not None for text in _texts(part, where)]
    if isinstance(value, str):
        if value.startswith('["') and value.endswith('"]'):
            try:
                return _texts(loads(value), where)
            except ValueError:  # no JSON, or none that is read
                return [value]
        return [value.strip()] if value.strip() else []
    if isinstance(value, (int, float)):
        return [str(value)]
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return [item.strip() for item in value if item.strip()]
    raise DataError("an answer is neither text nor a list of texts", where=where, got=repr(value)[:200])


def _distinct(answers: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(answers))


def _ordered(entries: list[Entry], source: Source, seed: int) -> list[Entry]:
    """A seeded order: balanced over relations for the embedded facts, a plain shuffle for other sets."""
    if source.rows == "facts":
        return [
            item["entry"]
            for item in balanced([{"id": e.id, "relation": e.relation, "entry": e} for e in entries], seed)
        ]
    shuffled = list(entries)
    random.Random(seed).shuffle(shuffled)
    return shuffled


def _check_enough(name: str, shots: int, examples: int, questions: int) -> None:
    if examples < shots or questions < 1:
        raise DataError(
            "the set has too few rows for that many shots",
            where=name,
            expected=f"{shots} for demonstrations and at least 1 to ask",
            got=f"{examples} and {questions}",
            do="ask for fewer shots",
        )


def _golds(entries: Sequence[Entry]) -> dict[str, list[str]]:
    golds: dict[str, set[str]] = {}
    for entry in entries:
        if entry.relation is not None:
            golds.setdefault(entry.relation, set()).add(entry.answers[0])
    return {relation: sorted(answers) for relation, answers in golds.items()}


def _question(name: str, source: Source, entry: Entry, golds: Mapping[str, list[str]]) -> Question:
    distractors = entry.distractors
    if distractors is None:
        pool = golds[entry.relation] if entry.relation is not None else []
        distractors = draw_distractors(entry.answers, pool, f"{name} {entry.id}")
    wrong = tuple(text for text in distractors if not any(same_answer(text, right) for right in entry.answers))
    return Question(name, entry.id, source.style.render(entry.text), entry.answers, wrong, entry.relation)
