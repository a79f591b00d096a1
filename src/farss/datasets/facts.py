"""The embedded knowledge set: stable facts in 24 relations, each asked as two questions and one cloze sentence.

The facts are tables of our own (`tables/RELATION.tsv`: subject, answer, accepted aliases); the wording is here. Which
facts are kept back as demonstrations, and every fact's distractors, are fixed; a seed only changes the order.
"""

from __future__ import annotations

import csv
import difflib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from farss.errors import DataError

SPLITS = ("shots", "test")
SHOTS_PER_RELATION = 3
DISTRACTORS = 3
CONFUSABLE = 0.75
"""Spellings more alike than this (difflib ratio) are never set against each other: a near miss is no wrong answer."""

_FIXED_SEED = "farss facts, first edition"


@dataclass(frozen=True)
class Relation:
    """One kind of fact and its three wordings, each with `{}` where the subject goes.

    Attributes:
        name: also the name of its table.
        question: phrasing 0.
        rephrased: phrasing 1.
        cloze: the beginning of a sentence that the answer completes.
    """

    name: str
    question: str
    rephrased: str
    cloze: str


RELATIONS = (
    Relation("capital", "What is the capital of {}?", "Which city is the capital of {}?", "The capital of {} is"),
    Relation(
        "state_capital",
        "What is the capital of the US state of {}?",
        "Which city is the state capital of {} in the United States?",
        "The capital of the US state of {} is",
    ),
    Relation(
        "currency",
        "What is the currency of {}?",
        "Which currency do people in {} pay with?",
        "The currency of {} is the",
    ),
    Relation(
        "language",
        "What is the most widely spoken language in {}?",
        "Which language do most people in {} speak?",
        "The language that most people speak in {} is",
    ),
    Relation(
        "continent", "On which continent is {}?", "Which continent does {} belong to?", "{} is on the continent of"
    ),
    Relation(
        "city_country",
        "In which country is the city of {}?",
        "Which country is {} a city of?",
        "The city of {} is in the country of",
    ),
    Relation(
        "city_state",
        "In which US state is the city of {}?",
        "Which state of the United States is {} in?",
        "The American city of {} is in the state of",
    ),
    Relation("landmark_city", "In which city is {}?", "Which city would you visit to see {}?", "{} is in the city of"),
    Relation(
        "place_country",
        "In which country is {}?",
        "Which country would you visit to see {}?",
        "{} is in the country of",
    ),
    Relation(
        "company_country",
        "In which country was the company {} founded?",
        "Which country does the company {} come from?",
        "The company {} was founded in the country of",
    ),
    Relation(
        "element_symbol",
        "What is the chemical symbol for {}?",
        "Which symbol stands for {} in the periodic table?",
        "The chemical symbol for {} is",
    ),
    Relation(
        "atomic_number",
        "Which chemical element has the atomic number {}?",
        "What is the name of element number {} in the periodic table?",
        "The chemical element with the atomic number {} is",
    ),
    Relation(
        "formula",
        "What is the name of the chemical compound {}?",
        "Which substance has the chemical formula {}?",
        "The substance with the chemical formula {} is called",
    ),
    Relation("si_unit", "What is the SI unit of {}?", "In which SI unit is {} measured?", "The SI unit of {} is the"),
    Relation("planet", "Which planet is {}?", "What is the name of the planet that is {}?", "The planet that is {} is"),
    Relation(
        "animal_young",
        "What is a young {} called?",
        "Which word means a baby {}?",
        "The word for a baby {} is",
    ),
    Relation(
        "roman_god",
        "What is the Roman name of the Greek mythological figure {}?",
        "By which name did the Romans know the Greek {}?",
        "In Roman mythology, the Greek {} is called",
    ),
    Relation("event_year", "In what year was {}?", "Which year saw {}?", "The year of {} was"),
    Relation("author", 'Who wrote "{}"?', 'Who is the author of "{}"?', 'The author of "{}" is'),
    Relation("inventor", "Who invented {}?", "Which inventor created {}?", "The inventor of {} was"),
    Relation(
        "scientist",
        "Which scientist is credited with {}?",
        "To whom does science owe {}?",
        "The scientist credited with {} is",
    ),
    Relation("painter", "Which artist painted {}?", "Who is the painter of {}?", "The artist who painted {} was"),
    Relation("composer", "Who composed {}?", "Which composer wrote {}?", "The composer of {} was"),
    Relation(
        "director", 'Who directed the film "{}"?', 'Which director made the film "{}"?', 'The film "{}" was directed by'
    ),
)


@dataclass(frozen=True)
class Fact:
    """One line of a table: `answers[0]` is the preferred answer, the others are accepted too."""

    relation: Relation
    subject: str
    answers: tuple[str, ...]


def rows(split: str = "test", seed: int = 0) -> list[dict[str, Any]]:
    """The facts of one split as rows, ordered so that every prefix is balanced over the relations.

    Args:
        split: "test" (asked) or "shots" (kept back for demonstrations, never asked).
        seed: changes the order only, never which facts are in a split nor their distractors.

    Returns:
        Dictionaries with `id`, `relation`, `subject`, `question`, `rephrased`, `cloze`, `answer`, `aliases` (list) and
        `distractors` (list of three).

    Raises:
        DataError: if there is no such split.
    """
    if split not in SPLITS:
        raise DataError("the embedded set has no such split", where="facts", expected=" | ".join(SPLITS), got=split)
    chosen = [row for relation in RELATIONS for row in _relation_rows(relation) if row["split"] == split]
    return balanced([{key: value for key, value in row.items() if key != "split"} for row in chosen], seed)


def balanced(rows: Sequence[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """The rows (with `id` and `relation`) in a seeded order whose prefixes hold equally many of each relation.

    Small relations run out first; the order in which the rows are given does not matter.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["id"]):
        groups.setdefault(row["relation"], []).append(row)
    for name, group in groups.items():
        random.Random(f"{seed} {name}").shuffle(group)
    order = sorted(groups)
    random.Random(f"{seed} relations").shuffle(order)
    longest = max(map(len, groups.values()), default=0)
    return [groups[name][i] for i in range(longest) for name in order if i < len(groups[name])]


def table(name: str) -> list[tuple[str, tuple[str, ...]]]:
    """The lines of one relation's table: (subject, accepted answers with the preferred one first)."""
    text = resources.files("farss.datasets").joinpath("tables", f"{name}.tsv").read_text(encoding="utf-8")
    reader = csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    return [(row["subject"], (row["answer"], *filter(None, row["aliases"].split("|")))) for row in reader]


def same_answer(first: str, second: str) -> bool:
    """Whether two answers are equal but for case, surrounding space and a leading article."""
    return _key(first) == _key(second)


def confusable(first: str, second: str) -> bool:
    """Whether two answers are equal, or spelt so alike that one could pass for the other (numbers only if equal)."""
    a, b = _key(first), _key(second)
    if a == b:
        return True
    if any(character.isdigit() for character in a + b):
        return False
    return difflib.SequenceMatcher(None, a, b, autojunk=False).ratio() > CONFUSABLE


def draw_distractors(accepted: Iterable[str], pool: Iterable[str], seed: str) -> tuple[str, ...]:
    """Up to three wrong answers from `pool`, none of them accepted, confusable with an accepted one, or alike.

    Args:
        accepted: every answer that counts as right.
        pool: candidates; order and repetitions do not matter.
        seed: the same seed and pool give the same answers on every machine.
    """
    right, chosen = tuple(accepted), []
    candidates = sorted(set(pool))
    random.Random(seed).shuffle(candidates)
    for candidate in candidates:
        if not any(confusable(candidate, other) for other in (*right, *chosen)):
            chosen.append(candidate)
        if len(chosen) == DISTRACTORS:
            break
    return tuple(chosen)


@cache
def _relation_rows(relation: Relation) -> tuple[dict[str, Any], ...]:
    facts = [Fact(relation, subject, answers) for subject, answers in table(relation.name)]
    pool = [fact.answers[0] for fact in facts]
    reserved = set(random.Random(f"{_FIXED_SEED} {relation.name}").sample(range(len(facts)), SHOTS_PER_RELATION))
    return tuple(_row(fact, i, "shots" if i in reserved else "test", pool) for i, fact in enumerate(facts))


def _row(fact: Fact, index: int, split: str, pool: list[str]) -> dict[str, Any]:
    relation, subject = fact.relation, fact.subject
    distractors = draw_distractors(fact.answers, pool, f"{_FIXED_SEED} {relation.name} {subject}")
    return {
        "id": f"{relation.name}/{index:03d}",
        "relation": relation.name,
        "subject": subject,
        "question": _sentence(relation.question, subject),
        "rephrased": _sentence(relation.rephrased, subject),
        "cloze": _sentence(relation.cloze, subject),
        "answer": fact.answers[0],
        "aliases": list(fact.answers[1:]),
        "distractors": list(distractors),
        "split": split,
    }


def _sentence(template: str, subject: str) -> str:
    text = template.format(subject)
    return text[0].upper() + text[1:]


def _key(text: str) -> str:
    words = text.casefold().split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in ("a", "an", "the") else words)
