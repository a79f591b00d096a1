"""When an answer counts as right."""

from __future__ import annotations

import gzip
import json
from fractions import Fraction

import pytest

from farss.evaluation.answers import (
    begins_with,
    exact_match,
    normalise,
    only_number,
    same_final_answer,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Beatles", "beatles"),
        ("  Sunset   Blvd. ", "sunset blvd"),
        ("Self-exile", "self exile"),
        ("O’Neill", "o neill"),
        ("An_apple a day", "apple day"),
        ("theatre", "theatre"),
        ("The The", "the the"),
        ("...", ""),
    ],
)
def test_normalise(text, expected):
    assert normalise(text) == expected


@pytest.mark.parametrize(
    ("text", "accepted", "right"),
    [
        (" the Beatles.\nQ: next", ("Beatles",), True),
        ("\n\nParis", ("paris",), True),
        ("Paris, France", ("Paris",), False),
        ("Rome", ("Paris", "rome"), True),
        ("", ("",), False),
        ("!", ("?",), False),
    ],
)
def test_exact_match(text, accepted, right):
    assert exact_match(text, accepted) == right


@pytest.mark.parametrize(
    ("text", "accepted", "right"),
    [
        (" Antarctica, and is its highest point", ("Antarctica",), True),
        (" the United States of", ("United States",), True),
        (" Parisian", ("Paris",), False),
        (" in Paris", ("Paris",), False),
        ("", ("Paris",), False),
        ("x", ("!",), False),
        (" 1.008 grams", ("1",), False),
        (" 1,008 people", ("1",), False),
        (" 1/2 of it", ("1",), False),
        (" 1:30 in the", ("1",), False),
        (" -1 degree", ("1",), False),
        (" 1. It is", ("1",), True),
        (" 1, and then", ("1",), True),
        (" 1,008 people", ("1008",), True),
        (" 1.008 grams", ("1.008",), True),
        (" 1994-1998, when", ("1994",), True),
    ],
)
@pytest.mark.case("a cloze answer 1.008 is not 1")
def test_begins_with(text, accepted, right):
    assert begins_with(text, accepted) == right


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("... The answer is: 18", 18),
        ("The answer is: $1,234.50.", Fraction("1234.5")),
        ("The answer is: 3. The answer is: 4", 4),
        ("The answer is: -7", -7),
        ("The answer is: $-7", -7),
        ("The answer is: −7 degrees", -7),
        ("The answer is: 1/4", Fraction(1, 4)),
        ("The answer is: .5", Fraction(1, 2)),
        ("The answer is: 10 000", 10000),
        ("The answer is:\n42", 42),
        ("The answer is: about 12 apples, not 13", 12),
        ("The answer is: 50%", 50),
        ("The answer is: 3/0", None),
        ("The answer is: none", None),
        ("#### 18", None),
        ("It is 18", None),
        ("", None),
    ],
)
def test_the_first_number_after_the_last_mark_is_the_answer(text, number):
    assert same_final_answer(text, "18" if number is None else str(number)) == (number is not None)
    assert not same_final_answer(text, "19")


@pytest.mark.parametrize(
    ("text", "gold", "right"),
    [
        ("The answer is: 18.0", "18", True),
        ("The answer is: $18", "18", True),
        ("The answer is: 18", "$18.00", True),
        ("The answer is: 1,200", "1200", True),
        ("The answer is: 17", "18", False),
        ("18", "18", False),
        ("The answer is: B.", "b", True),
        ("The answer is: \\frac{1}{2}", "\\frac{1}{2}", True),
        ("The answer is: 1", "\\frac{1}{2}", False),
        ("The answer is: 1", "1 apple", False),
        ("The answer is: \\frac{7}{2}", "7", False),
        ("The answer is: 3 1/2", "3.5", True),
        ("The answer is: 1{,}234", "1234", True),
        ("The answer is:\n- 18", "18", True),
        ("The answer is: - 18", "-18", True),
        ("The answer is: 20 100-dollar bills", "20", True),
        ("The answer is: " + "1" * 5000, "18", False),
    ],
)
@pytest.mark.case("numbers in answers are read as a reader reads them")
def test_same_final_answer(text, gold, right):
    assert same_final_answer(text, gold) == right


def test_every_gsm8k_reference_solution_has_a_number(shared_data):
    with gzip.open(shared_data / "gsm8k" / "test.jsonl.gz", "rt", encoding="utf-8") as file:
        answers = [json.loads(line)["answer"] for line in file]
    for answer in answers:
        number = only_number(answer.rpartition("####")[2])
        assert number is not None
        assert same_final_answer(f"so. The answer is: {number.value}", answer.rpartition("####")[2])


def test_normal_form_is_that_of_trivia_qa(shared_data):
    with gzip.open(shared_data / "trivia_qa" / "dev.jsonl.gz", "rt", encoding="utf-8") as file:
        golds = [json.loads(line)["answer"] for line in file]
    differing = [g["value"] for g in golds if normalise(g["value"]) != normalise(g["normalized_value"])]
    assert len(differing) < 0.005 * len(golds), differing[:10]
