"""The embedded task: every solution is right, no problem is in two splits."""

from __future__ import annotations

import hashlib
from collections import Counter
from random import Random

import pytest

from farss.datasets import word_problems
from farss.datasets.formats import final_answer
from farss.datasets.problem_families import FAMILIES, Solution
from farss.datasets.word_problems import equations, signature
from farss.errors import DataError

SPLITS = {split: word_problems.rows(split) for split in word_problems.SPLIT_SIZES}
EVERY = [row for rows in SPLITS.values() for row in rows]
EXACT = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a // b if a % b == 0 else None,
}


def test_the_splits_have_the_stated_sizes():
    assert {split: len(rows) for split, rows in SPLITS.items()} == {"train": 2400, "validation": 240, "test": 600}


def test_every_equation_of_every_solution_holds():
    wrong = [row["answer"] for row in EVERY for a, op, b, c in equations(row["answer"]) if EXACT[op](a, b) != c]
    assert wrong == []


def test_each_step_is_one_equation_and_the_last_gives_the_answer():
    for row in EVERY:
        found = equations(row["answer"])
        assert 2 <= len(found) == row["steps"] <= 5
        assert str(found[-1][3]) == row["final"] == final_answer(row["answer"])
        assert row["answer"].count("=") == len(found)
        assert row["answer"].endswith(f"The answer is: {row['final']}")
        assert all(result >= word_problems.SMALLEST_RESULT for *_, result in found)


def test_every_number_of_a_solution_is_given_or_computed():
    implied = {2}  # a rectangle has its two sides twice
    for row in EVERY:
        known = {*signature(row)[1], *implied}
        for left, _, right, result in equations(row["answer"]):
            assert {left, right} <= known, row
            known.add(result)


def test_no_question_text_and_no_family_with_numbers_occurs_twice():
    assert len({row["question"] for row in EVERY}) == len(EVERY)
    assert len({signature(row) for row in EVERY}) == len(EVERY)


def test_every_split_holds_every_family_equally():
    for rows in SPLITS.values():
        assert Counter(row["family"] for row in rows) == {family: len(rows) // len(FAMILIES) for family in FAMILIES}
        assert {row["family"] for row in rows[: len(FAMILIES)]} == set(FAMILIES)


def test_every_family_has_problems_of_different_length():
    for family in FAMILIES:
        assert len({row["steps"] for row in EVERY if row["family"] == family}) >= 2


def test_solutions_are_short():
    words = sorted(len(row["answer"].split()) for row in EVERY)
    assert words[len(words) // 2] < 45 and words[-1] < 70


def test_the_problems_are_the_same_on_every_machine():
    digest = hashlib.sha256("\n".join(row["question"] + row["answer"] for row in EVERY).encode()).hexdigest()
    assert digest[:16] == "f49f8ba341eb0710"


def test_callers_cannot_change_the_set():
    word_problems.rows("test")[0]["question"] = "changed"
    assert word_problems.rows("test")[0]["question"] != "changed"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_never_leaves_whole_positive_numbers(family):
    for seed in range(300):
        question, solution = FAMILIES[family](Random(seed))
        assert question.endswith("?") and min(solution.results) >= 1


@pytest.mark.parametrize(("left", "operator", "right"), [(3, "-", 3), (7, "/", 2)])
def test_a_step_that_is_not_exact_and_positive_is_refused(left, operator, right):
    with pytest.raises(ValueError, match="is not"):
        Solution().step("{}", left, operator, right)


def test_an_unknown_split_is_refused():
    with pytest.raises(DataError, match="no such split"):
        word_problems.rows("dev")
