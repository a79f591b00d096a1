"""Loss and gain by kind of fact, on hand-made answers."""

from __future__ import annotations

import pytest

from farss.errors import DataError
from farss.evaluation.records import KnowledgeSample, Measurement
from farss.evaluation.relations import by_relation


def measurement(right, shift=0.0):
    answers = [
        KnowledgeSample("facts", str(number), f"q{number}", "gold", -1.0 + shift, 1, hit=answer)
        for number, answer in enumerate(right)
    ]
    return Measurement(knowledge=answers)


RELATIONS = {("facts", str(i)): kind for i, kind in enumerate(["capital", "capital", "capital", "year", None])}


def test_counts_by_kind_the_largest_loss_first():
    before, after = measurement([1, 1, 0, 0, 1]), measurement([0, 0, 1, 1, 1], shift=-0.5)
    rows = by_relation(before, after, RELATIONS)
    found = {row["relation"]: (row["n"], row["before"], row["after"], row["lost"], row["gained"]) for row in rows}
    assert found == {"capital": (3, 2, 1, 2, 1), "year": (1, 0, 1, 0, 1), "other": (1, 1, 1, 0, 0)}
    assert [row["relation"] for row in rows] == ["capital", "other", "year"]
    assert all(row["log_prob_change"] == pytest.approx(-0.5) for row in rows)
    assert {row["relation"]: row["p"] for row in rows} == {"capital": 1.0, "year": 1.0, "other": 1.0}


def test_other_questions_are_refused():
    with pytest.raises(DataError, match="different questions"):
        by_relation(measurement([1, 1]), measurement([1]), RELATIONS)
