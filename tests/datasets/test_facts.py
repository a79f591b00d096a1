"""The embedded knowledge set."""

from __future__ import annotations

from collections import Counter

import pytest

from farss.datasets import facts
from farss.datasets.facts import confusable, draw_distractors, same_answer
from farss.errors import DataError

EVERY = facts.rows("test") + facts.rows("shots")
KNOWN = {
    "What is the capital of France?": "Paris",
    "What is the chemical symbol for gold?": "Au",
    "Which chemical element has the atomic number 26?": "iron",
    'Who wrote "Hamlet"?': "William Shakespeare",
    "In what year was the first Moon landing?": "1969",
    "What is the SI unit of force?": "newton",
    "What is the capital of the US state of Texas?": "Austin",
}


def test_the_set_is_large_and_wide():
    assert len(facts.rows("test")) >= 600
    assert len(EVERY) >= 700
    assert min(Counter(row["relation"] for row in EVERY).values()) >= 20
    assert len(facts.RELATIONS) >= 8


@pytest.mark.parametrize(("question", "answer"), KNOWN.items())
def test_well_known_facts_are_right(question, answer):
    assert [row["answer"] for row in EVERY if row["question"] == question] == [answer]


def test_no_fact_is_both_shown_and_asked():
    shown, asked = facts.rows("shots"), facts.rows("test")
    for field in ("id", "question", "rephrased", "cloze"):
        assert not {row[field] for row in shown} & {row[field] for row in asked}
    assert Counter(row["relation"] for row in shown) == {r.name: facts.SHOTS_PER_RELATION for r in facts.RELATIONS}


@pytest.mark.parametrize("field", ["id", "question", "rephrased", "cloze"])
def test_no_two_facts_are_asked_in_the_same_words(field):
    assert max(Counter(row[field] for row in EVERY).values()) == 1


def test_the_three_wordings_differ_and_are_well_formed():
    for row in EVERY:
        assert len({row["question"], row["rephrased"], row["cloze"]}) == 3
        assert row["question"].endswith("?") and row["rephrased"].endswith("?")
        assert row["cloze"][-1].isalnum() or row["cloze"].endswith('"')
        assert row["question"][0].isupper() or row["question"][0].isdigit()
        assert row["subject"].casefold() in row["question"].casefold()


def test_texts_are_plain_ascii_without_loose_space():
    for row in EVERY:
        for text in (row["question"], row["rephrased"], row["cloze"], row["answer"], *row["aliases"]):
            assert text.isascii() and text == text.strip() and "  " not in text and text


def test_no_question_gives_its_answer_away():
    giving = [row["id"] for row in EVERY if row["answer"].casefold() in row["question"].casefold().split()]
    assert giving == []


def test_three_distractors_of_the_same_relation_none_of_them_right():
    golds = {relation.name: {answers[0] for _, answers in facts.table(relation.name)} for relation in facts.RELATIONS}
    for row in EVERY:
        accepted = [row["answer"], *row["aliases"]]
        assert len(row["distractors"]) == len(set(row["distractors"])) == facts.DISTRACTORS
        assert set(row["distractors"]) <= golds[row["relation"]]
        assert not any(same_answer(wrong, right) for wrong in row["distractors"] for right in accepted)
        assert not any(confusable(wrong, right) for wrong in row["distractors"] for right in accepted)


def test_aliases_repeat_nothing():
    for row in EVERY:
        accepted = [row["answer"], *row["aliases"]]
        assert len(accepted) == len(set(accepted)), row["id"]


def test_every_prefix_is_balanced_over_relations():
    for seed in (0, 7):
        counts = Counter(row["relation"] for row in facts.rows("test", seed=seed)[: 10 * len(facts.RELATIONS)])
        assert set(counts.values()) == {10}


def test_a_seed_changes_the_order_and_nothing_else():
    first, second = facts.rows("test", seed=0), facts.rows("test", seed=1)
    assert first != second
    assert sorted(first, key=lambda row: row["id"]) == sorted(second, key=lambda row: row["id"])
    assert first == facts.rows("test", seed=0)


def test_the_order_and_distractors_are_the_same_on_every_machine():
    row = facts.rows("test")[0]
    assert (row["id"], row["distractors"]) == ("element_symbol/056", ["Pb", "Sn", "Bi"])


def test_an_unknown_split_is_refused():
    with pytest.raises(DataError, match="no such split"):
        facts.rows("train")


def test_confusable_spellings():
    assert (
        confusable("Guinea-Bissau", "Guinea Bissau") and confusable("krona", "krone") and confusable("The Sun", "sun")
    )
    assert not confusable("1914", "1915") and not confusable("gold", "silver")


def test_distractors_skip_accepted_answers_and_may_run_out():
    assert draw_distractors(["peso"], ["peso", "Peso", "yen"], "s") == ("yen",)
    assert draw_distractors(["a"], [], "s") == ()
