"""Facts lost and gained."""

from __future__ import annotations

import pytest

from farss.errors import DataError
from farss.evaluation.forgetting import facts, facts_account
from farss.evaluation.records import KnowledgeSample, Measurement


def answered(*rows):
    return Measurement(
        [KnowledgeSample("s", str(i), f"q{i}", "g", p, 1, False, None, w, w == "g") for i, (w, p) in enumerate(rows)]
    )


def test_facts_lost_and_gained():
    before = answered(("g", -1.0), ("g", -1.0), ("x", -3.0), ("g", -1.0), ("x", -2.0))
    after = answered(("y", -2.0), ("z", -5.0), ("g", -0.5), ("g", -1.0), ("y", -2.0))
    found = facts(before, after)
    assert [(f["question"], f["before"], f["after"], f["log_prob_change"]) for f in found["lost"]] == [
        ("q1", "g", "z", -4.0),
        ("q0", "g", "y", -1.0),
    ]
    assert [(f["question"], f["log_prob_change"]) for f in found["gained"]] == [("q2", 2.5)]
    assert found["mcnemar"] == {"s": {"lost": 2, "gained": 1, "p": pytest.approx(1.0)}}
    assert found["counts"] == {"s": {"asked": 5, "known": 3, "kept": 1}}
    assert set(found["lost"][0]) == {"set", "question", "gold", "before", "after", "log_prob_change"}


def test_many_lost_facts_are_no_chance():
    before, after = answered(*[("g", -1.0)] * 12), answered(*[("x", -2.0)] * 10, *[("g", -1.0)] * 2)
    assert facts(before, after)["mcnemar"]["s"] == {"lost": 10, "gained": 0, "p": pytest.approx(2 * 0.5**10)}


@pytest.mark.case("a share kept counts what the base knew and still knows")
def test_what_is_new_does_not_make_up_for_what_is_lost():
    before = answered(*[("g", -1.0)] * 3, *[("x", -2.0)] * 4)
    after = answered(*[("x", -2.0)] * 3, *[("g", -1.0)] * 4)
    account = facts_account(facts(before, after), most=2)
    assert (account["asked_count"], account["known_count"], account["kept_count"]) == (7, 3, 0)
    assert (account["lost_count"], account["gained_count"]) == (3, 4) and len(account["gained"]) == 2
    assert account["kept"]["value"] == account["kept"]["low"] == 0 < account["kept"]["high"] < 1


def test_a_base_that_knows_nothing_has_no_share_to_keep():
    account = facts_account(facts(answered(("x", -2.0)), answered(("g", -1.0))), most=9)
    assert account["kept"] is None and account["known_count"] == 0 and account["gained_count"] == 1


def test_without_words_the_greedy_path_counts():
    def path(*hits):
        return Measurement([KnowledgeSample("s", str(i), "q", "g", -1.0, 1, hit) for i, hit in enumerate(hits)])

    found = facts(path(True, False), path(False, False))
    assert len(found["lost"]) == 1 and found["lost"][0]["before"] is None


def test_other_questions_cannot_be_compared():
    with pytest.raises(DataError, match="different questions"):
        facts(answered(("g", -1.0)), answered(("g", -1.0), ("x", -1.0)))
    with pytest.raises(DataError, match="in words"):
        facts(answered(("g", -1.0)), Measurement([KnowledgeSample("s", "0", "q", "g", -1.0, 1, True)]))
