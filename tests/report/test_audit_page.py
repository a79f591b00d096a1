"""The audit's sentence, page, lines and gate, from measurements that are made up here."""

from __future__ import annotations

import re

import pytest

from farss.errors import GateError
from farss.evaluation.forgetting import facts, facts_account
from farss.evaluation.records import KnowledgeSample, Measurement
from farss.evaluation.relations import by_relation
from farss.evaluation.scores import compare_to_base, summarise
from farss.experiment.auditing import _enforce, _gate
from farss.report.audit import headline, interval_text, lines, render_audit, share_kept


def model(right: set[int], asked: int = 20) -> Measurement:
    return Measurement(
        [
            KnowledgeSample("capitals", str(i), f"q{i}", "g", -1.0, 1, i in right, i in right, "w", i in right)
            for i in range(asked)
        ]
    )


def account(before: set[int], after: set[int], asked: int = 20) -> dict:
    base, tuned = model(before, asked), model(after, asked)
    return {
        "subject": "tuned",
        "base": "plain",
        "kind": "adapter",
        "scores": {"before": summarise(base), "after": summarise(tuned)},
        "compared": compare_to_base(tuned, base, bootstrap=200),
        "relations": by_relation(base, tuned, {}),
        "facts": facts_account(facts(base, tuned), 10),
        "gate": None,
    }


def words(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


@pytest.mark.case("a share kept counts what the base knew and still knows")
@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ({0, 1, 2}, {3, 4, 5, 6}, "tuned keeps 0 of the 3 facts that plain knows (0 %): 3 lost; of the 17 that plain"),
        (set(range(10)), set(range(4, 12)), "tuned keeps 6 of the 10 facts that plain knows (60 %): 4 lost; of the 10"),
        (set(range(20)), set(range(20)), "tuned keeps 20 of the 20 facts that plain knows (100 %): 0 lost"),
        (set(), {1}, "plain knows none of the 20 facts asked for, so that none can be lost; tuned gained 1"),
    ],
)
def test_the_sentence_tells_kept_from_gained(before, after, sentence):
    assert headline(account(before, after)).startswith(sentence)


def test_the_ratio_above_one_is_called_a_ratio():
    found = account({0, 1, 2}, {3, 4, 5, 6})
    assert found["compared"]["K"]["value"] == pytest.approx(4 / 3)
    page = words(render_audit(found))
    assert "133 %" not in page and "ratio of accuracies, K 1.333" in page
    assert "facts kept 0.000" in page


def test_the_terminal_has_the_share_kept_before_the_ratios():
    found = lines(account(set(range(10)), set(range(4, 12))))
    assert found[1].startswith("facts kept   0.600 [") and found[2].startswith("K ")


def test_an_account_that_does_not_say_what_was_known_claims_no_share():
    found = account({0, 1}, {2, 3})
    for key in ("known_count", "kept", "counts"):
        del found["facts"][key]
    assert headline(found).startswith(
        "tuned: 2 facts lost and 2 gained of 20 asked; the ratio of accuracies K is 1.000"
    )
    assert "facts kept" not in words(render_audit(found))


@pytest.mark.parametrize(
    ("kept", "known", "shown"), [(999, 1000, "99.9"), (1, 400, "0.2"), (3, 4, "75"), (7, 7, "100")]
)
def test_a_share_is_all_or_none_only_where_it_is(kept, known, shown):
    assert share_kept(kept, known) == shown


@pytest.mark.case("an interval that does not exist")
def test_a_measure_without_interval_is_told_with_the_reason():
    found = account({0}, {0, 1})  # one known fact is not drawn in every resample
    assert found["compared"]["K"]["low"] is None
    line = next(text for text in lines(found) if text.startswith("K "))
    assert "2.000 (no interval: " in line and "too many resamples" in line
    assert "no interval" in words(render_audit(found))


@pytest.mark.case("an interval that does not exist")
@pytest.mark.parametrize(
    ("before", "after", "least", "met", "said"),
    [
        (set(range(15)), set(range(15)), 0.9, True, None),
        (set(range(15)), set(range(5)), 0.9, False, "keeps less than asked for"),
        ({0}, {0}, 0.9, None, "cannot be judged"),
        ({0}, set(), 0.9, False, "keeps less than asked for"),
        (set(), {1}, 0.9, None, "cannot be judged"),
    ],
)
def test_a_gate_is_met_or_not_or_cannot_be_judged(before, after, least, met, said, tmp_path):
    found = account(before, after)
    gate = found["gate"] = _gate(found["compared"], least, "K")
    assert gate["met"] is met
    verdict = {True: "Gate met", False: "Gate not met", None: "Gate cannot be judged"}[met]
    assert verdict in words(render_audit(found))
    if said is None:
        _enforce(gate, tmp_path)
        return
    with pytest.raises(GateError, match=said) as caught:
        _enforce(gate, tmp_path)
    assert caught.value.exit_code == 3


def test_a_missing_value_says_why():
    assert (
        interval_text({"value": None, "low": None, "high": None}, "nothing was right") == "no value: nothing was right"
    )
