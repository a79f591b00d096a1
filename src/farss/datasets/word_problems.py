"""The embedded task: arithmetic word problems of two to five steps with worked solutions.

One stream of problems, drawn with a fixed seed, is dealt to the splits; a problem whose family and numbers were seen
before is thrown away, so no two problems of any split differ only in names or nouns.
"""

from __future__ import annotations

import random
import re
from functools import cache
from typing import Any

from farss.datasets.problem_families import FAMILIES
from farss.errors import DataError

SPLIT_SIZES = {"test": 600, "validation": 240, "train": 2400}
"""Rows per split, in the order in which the stream is dealt."""

SMALLEST_RESULT = 2
"""Problems with a step that gives 1 are redrawn: the sentences are in the plural."""

ANSWER_PHRASE = "The answer is:"
_STREAM_SEED = "farss word problems, first edition"
_EQUATION = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")


def rows(split: str = "train") -> list[dict[str, Any]]:
    """The problems of one split, always the same ones in the same order; every ten hold each family once.

    Returns:
        Dictionaries with `id`, `question`, `answer` (the worked solution, ending in "The answer is: N"), `family`,
        `steps` (2 to 5) and `final` (N as text).

    Raises:
        DataError: if there is no such split.
    """
    if split not in SPLIT_SIZES:
        raise DataError(
            "the embedded set has no such split", where="word_problems", expected=" | ".join(SPLIT_SIZES), got=split
        )
    return [dict(row) for row in _all_rows()[split]]


def signature(row: dict[str, Any]) -> tuple[str, tuple[int, ...]]:
    """The family and the numbers of a question: what makes two problems the same but for names and nouns."""
    return row["family"], tuple(int(number) for number in re.findall(r"\d+", row["question"]))


def equations(solution: str) -> list[tuple[int, str, int, int]]:
    """The equations in a worked solution as (left, operator, right, stated result)."""
    return [(int(a), operator, int(b), int(c)) for a, operator, b, c in _EQUATION.findall(solution)]


@cache
def _all_rows() -> dict[str, tuple[dict[str, Any], ...]]:
    rng, seen = random.Random(_STREAM_SEED), set()
    return {split: tuple(_deal(split, size, rng, seen)) for split, size in SPLIT_SIZES.items()}


def _deal(split: str, size: int, rng: random.Random, seen: set[tuple[str, tuple[int, ...]]]) -> list[dict[str, Any]]:
    dealt: list[dict[str, Any]] = []
    names = list(FAMILIES)
    while len(dealt) < size:
        rng.shuffle(names)
        for family in names:
            row = _new_row(family, rng, seen)
            dealt.append({"id": f"{split}/{len(dealt):04d}", **row})
    return dealt[:size]


def _new_row(family: str, rng: random.Random, seen: set[tuple[str, tuple[int, ...]]]) -> dict[str, Any]:
    while True:
        question, solution = FAMILIES[family](rng)
        answer = " ".join([*solution.sentences, f"{ANSWER_PHRASE} {solution.results[-1]}"])
        row = {
            "question": question,
            "answer": answer,
            "family": family,
            "steps": len(solution.sentences),
            "final": str(solution.results[-1]),
        }
        if min(solution.results) >= SMALLEST_RESULT and signature(row) not in seen:
            seen.add(signature(row))
            return row
