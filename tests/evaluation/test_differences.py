"""Methods compared over questions and seeds: what is told apart, what is not, and what an interval must hold."""

from __future__ import annotations

import math

import pytest

from farss.evaluation.differences import AREA, LEAST_P, MEASURES, compare_methods
from farss.evaluation.records import KnowledgeSample, Measurement, TaskSample
from farss.evaluation.scores import compare_to_base

N = 40


def measured(shift: float, loss: float, noise: float = 0.0) -> Measurement:
    """`shift` in nats per gold token, `loss` in nats per response token; `noise` differs from question to question."""
    wobble = [noise * math.sin(7.0 * i * (1 + abs(shift))) for i in range(N)]
    return Measurement(
        [KnowledgeSample("s", str(i), "q", "g", -3 - i % 3 + shift + wobble[i], 1 + i % 2, False) for i in range(N)],
        [TaskSample("t", str(i), "p", (loss + i % 2 / 10) * 4, 4) for i in range(N)],
    )


BASE, FULL = measured(0, 2.0), measured(-1.0, 1.0, 0.2)
RUNS = {
    "full": FULL,
    "good 0": measured(-0.10, 1.2, 0.2),
    "good 1": measured(-0.12, 1.2, 0.2),
    "twin": measured(-0.10, 1.2, 0.2),
    "bad 0": measured(-0.60, 1.2, 0.2),
    "bad 1": measured(-0.62, 1.2, 0.2),
}
METHODS = {"full": ["full"], "good": ["good 0", "good 1"], "bad": ["bad 0", "bad 1"], "twin": ["twin"]}
FRONTIERS = {name: {0.0: BASE, 1.0: run} for name, run in RUNS.items()}


@pytest.fixture(scope="module")
def account():
    return compare_methods(METHODS, RUNS, FRONTIERS, BASE, FULL, bootstrap=200)


def pairs(account, measure="K_p"):
    return {(p["a"], p["b"]): p for p in account["measures"][measure]["pairs"]}


def test_a_method_is_the_mean_of_its_trainings(account):
    for name in ("K_p", "T_l", "KT_l"):
        alone = [compare_to_base(RUNS[f"good {i}"], BASE, FULL, bootstrap=5)[name]["value"] for i in (0, 1)]
        assert account["methods"]["good"][name]["value"] == pytest.approx(sum(alone) / 2)
    assert account["methods"]["good"]["runs"] == ["good 0", "good 1"] and account["methods"]["good"]["seeds"] == 2


def test_every_measure_has_every_pair_with_its_numbers(account):
    assert tuple(account["measures"]) == MEASURES and account["undefined"] == {}
    for name in MEASURES:
        found = pairs(account, name)
        assert len(found) == 6
        for (a, b), pair in found.items():
            values = [account["methods"][m][name]["value"] for m in (a, b)]
            assert pair["value"] == pytest.approx(values[0] - values[1], abs=1e-12)
            assert pair["low"] <= pair["value"] <= pair["high"] and pair["p"] <= pair["p_holm"] <= 1


def test_what_differs_is_told_apart_and_what_does_not_is_not(account):
    apart, level = pairs(account)["good", "bad"], pairs(account)["good", "twin"]
    assert apart["low"] > 0 and apart["p_holm"] <= 2 * LEAST_P
    assert level["low"] < 0 < level["high"] and level["p_holm"] > 0.05


def test_there_are_resamples_enough_for_the_number_of_pairs(account):
    assert account["resamples"] == 6 / LEAST_P
    assert compare_methods(METHODS, RUNS, {}, BASE, FULL, bootstrap=700)["resamples"] == 700


def test_seeds_that_disagree_widen_the_interval():
    calm = {"a": ["good 0", "good 1"], "b": ["twin"]}
    wild = {"a": ["good 0", "bad 0"], "b": ["twin"]}
    errors = [pairs(compare_methods(m, RUNS, {}, BASE, FULL, bootstrap=400))["a", "b"]["error"] for m in (calm, wild)]
    half = abs(math.exp(-0.1) - math.exp(-0.6)) / 2
    assert errors[1] > 4 * errors[0] and errors[1] == pytest.approx(half, rel=0.2)


def test_one_training_says_nothing_of_other_seeds():
    """The control: without a second seed the same difference seems certain."""
    one = pairs(compare_methods({"a": ["good 0"], "b": ["bad 0"]}, RUNS, {}, BASE, FULL, bootstrap=400))["a", "b"]
    two = pairs(compare_methods({"a": ["good 0", "bad 0"], "b": ["bad 0"]}, RUNS, {}, BASE, FULL, bootstrap=400))
    assert one["low"] > 0 > two["a", "b"]["low"]


def test_what_is_missing_has_a_reason():
    alone = compare_methods(METHODS, RUNS, FRONTIERS, BASE, None, bootstrap=100)
    assert tuple(alone["measures"]) == ("K_p",)
    assert "no full fine-tuning" in alone["undefined"]["T_l"] and AREA in alone["undefined"]
    uneven = FRONTIERS | {"twin": {0.0: BASE, 0.5: RUNS["twin"]}}
    found = compare_methods(METHODS, RUNS, uneven, BASE, FULL, bootstrap=100)
    assert "same scales" in found["undefined"][AREA] and "KT_l" in found["measures"]


def test_one_method_has_values_and_nothing_to_differ_from():
    found = compare_methods({"good": METHODS["good"]}, RUNS, FRONTIERS, BASE, FULL, bootstrap=100)
    assert found["measures"]["K_p"] == {"critical": None, "pairs": []}
    assert found["methods"]["good"]["K_p"]["low"] < found["methods"]["good"]["K_p"]["high"]
