"""Scores with known answers; what does not exist is None with a reason."""

from __future__ import annotations

import math

import numpy as np
import pytest

from farss.errors import DataError
from farss.evaluation.frontier import frontier_points
from farss.evaluation.records import KnowledgeSample, Measurement, TaskSample
from farss.evaluation.scores import compare_runs, compare_to_base, summarise
from farss.maths.metrics import harmonic, knowledge_kept

SETS = ("facts", "cloze")
LIKELIHOOD = ("K_p", "T_l", "KT_l")


def measurement(shift=0.0, loss=2.0, right=0.5, task_right=0.5, n=60, seed=0, words=True, noise=0.0):
    """`shift` in nats per gold token, `loss` in nats per response token, shares of right answers."""
    rng, own = np.random.default_rng(seed), np.random.default_rng(seed + 1 + int(100 * abs(shift)))
    knowledge = [
        KnowledgeSample(
            set=name,
            id=str(i),
            question=f"{name} {i}",
            gold="g",
            log_prob=float(rng.normal(-3, 1)) + shift + noise * float(own.normal()),
            tokens=1 + i % 4,
            hit=False,
            choice=i < 0.8 * n,
            words="w" if words else None,
            correct=i < right * n if words else None,
        )
        for name in SETS
        for i in range(n)
    ]
    task = [
        TaskSample(
            task="problems",
            id=str(i),
            prompt="p",
            loss=(loss + float(rng.normal(0, 0.1))) * (5 + i % 7),
            tokens=5 + i % 7,
            words="w" if words and i < 20 else None,
            correct=i < task_right * 20 if words and i < 20 else None,
        )
        for i in range(n)
    ]
    return Measurement(knowledge, task)


BASE = measurement()
FULL = measurement(shift=-1.0, loss=1.0, right=0.2, task_right=0.8)


def test_summary_of_known_samples():
    samples = [
        KnowledgeSample("s", str(i), "q", "g", p, t, h, None, "w", c)
        for i, (p, t, h, c) in enumerate([(-1.0, 1, True, True), (-2.0, 3, False, False), (-4.0, 1, False, True)])
    ]
    task = [TaskSample("t", "0", "p", 6.0, 3), TaskSample("t", "1", "p", 2.0, 1)]
    scores = summarise(Measurement(samples, task))
    assert scores["knowledge/s/accuracy"]["value"] == pytest.approx(2 / 3)
    assert scores["knowledge/s/accuracy"]["stderr"] == pytest.approx(math.sqrt(2 / 9 / 3))
    assert scores["knowledge/s/hit"] == {
        "value": pytest.approx(1 / 3),
        "stderr": pytest.approx(0.2722, abs=1e-4),
        "n": 3,
    }
    assert scores["knowledge/s/log_prob"]["value"] == pytest.approx(-(1 + 6 + 4) / 5)
    assert scores["task/t/loss"] == {"value": pytest.approx(2.0), "stderr": pytest.approx(0.0), "n": 2}
    assert "knowledge/s/choice" not in scores and "task/t/accuracy" not in scores


def test_standard_error_of_a_ratio_covers_the_truth():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(300):
        tokens = rng.integers(1, 6, 200)
        losses = tokens * (1.5 + rng.normal(0, 0.5, 200))
        score = summarise(
            Measurement(
                [],
                [
                    TaskSample("t", str(i), "", float(a), int(b))
                    for i, (a, b) in enumerate(zip(losses, tokens, strict=True))
                ],
            )
        )["task/t/loss"]
        inside += abs(score["value"] - 1.5) < 1.96 * score["stderr"]
    assert 270 <= inside <= 298


def test_measures_of_known_models():
    after = measurement(shift=-0.5, loss=1.25, right=0.4, task_right=0.6)
    compared = compare_to_base(after, BASE, FULL, bootstrap=500)
    value = {
        name: compared[name]["value"] for name in ("K", "K_clipped", "T", "KT", "K_p", "choice_kept", "T_l", "KT_l")
    }
    assert value["K"] == pytest.approx(knowledge_kept({"a": 0.4}, {"a": 0.5}))
    assert value["T"] == pytest.approx(0.6 / 0.8)
    assert value["KT"] == pytest.approx(harmonic(0.8, 0.75))
    assert value["K_p"] == pytest.approx(math.exp(-0.5))
    assert value["choice_kept"] == pytest.approx(1.0)
    assert value["T_l"] == pytest.approx(0.75)
    assert value["KT_l"] == pytest.approx(harmonic(math.exp(-0.5), 0.75))
    assert compared["ratios"]["facts"]["value"] == pytest.approx(0.8)
    assert compared["knowledge_log_prob"]["cloze"]["value"] == pytest.approx(-0.5)
    assert compared["undefined"] == {}
    for name in value:
        assert compared[name]["low"] - 1e-12 <= compared[name]["value"] <= compared[name]["high"] + 1e-12


def test_probability_kept_is_over_answer_tokens():
    before = Measurement([KnowledgeSample("s", str(i), "", "", -2.0, t, False) for i, t in enumerate((1, 3))])
    after = Measurement(
        [KnowledgeSample("s", str(i), "", "", -2.0 - d, t, False) for i, (t, d) in enumerate(((1, 0), (3, 1)))]
    )
    assert compare_to_base(after, before)["K_p"]["value"] == pytest.approx(math.exp(-3 / 4))


def test_the_base_keeps_everything_and_gains_nothing():
    compared = compare_to_base(BASE, BASE, FULL, bootstrap=200)
    assert compared["K_p"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert compared["K"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert compared["T_l"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert compared["KT_l"]["value"] == 0.0


def test_intervals_depend_on_the_seed_only():
    after = measurement(shift=-0.5, noise=1.0)
    first = compare_to_base(after, BASE, FULL, bootstrap=200, seed=3)
    assert first == compare_to_base(after, BASE, FULL, bootstrap=200, seed=3)
    assert first["K_p"]["low"] != compare_to_base(after, BASE, FULL, bootstrap=200, seed=4)["K_p"]["low"]


UNDEFINED = {
    "no full run": (BASE, measurement(), None, {"T", "KT", "T_l", "KT_l"}, {"K", "K_p", "choice_kept"}),
    "full learned nothing": (BASE, measurement(), measurement(loss=2.5), {"T_l", "KT_l"}, {"K", "K_p", "T"}),
    "base knows nothing": (measurement(right=0.0), measurement(), FULL, {"K", "K_clipped", "KT"}, {"K_p", "T", "T_l"}),
    "full never right": (BASE, measurement(), measurement(task_right=0.0, loss=1.0), {"T", "KT"}, {"K", "K_p", "T_l"}),
    "no words": (measurement(words=False), measurement(words=False), FULL, {"K", "T", "KT"}, {"K_p", "T_l", "KT_l"}),
    "no task": (Measurement(BASE.knowledge), Measurement(BASE.knowledge), None, {"T", "T_l"}, {"K", "K_p"}),
    "no knowledge": (
        Measurement([], BASE.task),
        Measurement([], BASE.task),
        Measurement([], FULL.task),
        {"K", "K_p", "choice_kept"},
        {"T", "T_l"},
    ),
}


@pytest.mark.parametrize("case", UNDEFINED)
def test_what_does_not_exist_is_none_with_a_reason(case):
    before, after, full, missing, present = UNDEFINED[case]
    compared = compare_to_base(after, before, full, bootstrap=100)
    for name in missing:
        assert compared[name] is None, name
        assert compared["undefined"][name]
    for name in present:
        assert compared[name] is not None, (name, compared["undefined"])


def test_a_value_too_rare_for_an_interval_has_none():
    before = measurement(right=1 / 60)
    compared = compare_to_base(measurement(right=0.1), before, FULL, bootstrap=500)
    assert compared["K"] == {"value": pytest.approx(6.0), "low": None, "high": None}
    assert compared["undefined"]["K"].startswith("no interval")


def test_measures_never_depend_on_questions_of_others():
    with pytest.raises(DataError, match="different questions"):
        compare_to_base(measurement(n=59), BASE)


def test_other_tokens_cannot_be_paired():
    other = Measurement([KnowledgeSample(**{**vars(s), "tokens": s.tokens + 1}) for s in BASE.knowledge], BASE.task)
    with pytest.raises(DataError, match="different tokens"):
        compare_to_base(other, BASE)


def test_order_of_samples_does_not_matter():
    after = measurement(shift=-0.5, noise=1.0)
    turned = Measurement(after.knowledge[::-1], after.task[::-1])
    assert (
        compare_to_base(turned, BASE, FULL, bootstrap=100)["K_p"]
        == compare_to_base(after, BASE, FULL, bootstrap=100)["K_p"]
    )


def test_runs_that_differ_are_separated():
    better, worse = measurement(shift=-0.1, loss=1.2, noise=0.3), measurement(shift=-0.6, loss=1.2, noise=0.3)
    runs = {"better": better, "worse": worse, "same": better}
    found = compare_runs(runs, BASE, FULL, bootstrap=500)
    assert [(row["a"], row["b"]) for row in found[::6]] == [("better", "worse"), ("better", "same"), ("worse", "same")]
    rows = {row["measure"]: row for row in found[:6]}
    assert rows["K_p"]["low"] > 0
    assert rows["K_p"]["value"] == pytest.approx(math.exp(-0.1) - math.exp(-0.6), abs=0.1)
    same = {row["measure"]: row for row in found[6:12]}
    assert all(row["value"] == row["low"] == row["high"] == 0 for row in same.values())
    assert set(same) == {"K_p", "T_l", "KT_l", "K", "T", "KT"}


def test_paired_difference_is_sharper_than_two_intervals():
    a, b = measurement(shift=-0.1, noise=0.0), measurement(shift=-0.3, noise=0.0)
    row = compare_runs({"a": a, "b": b}, BASE, None, bootstrap=300)[0]
    assert row["measure"] == "K_p" and row["high"] - row["low"] < 1e-9


def test_runs_are_compared_where_both_have_a_measure():
    found = compare_runs({"a": BASE, "b": BASE}, BASE, None, bootstrap=100)
    assert {row["measure"] for row in found} == {"K_p", "K"}


def test_the_interval_covers_the_truth():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(100):
        changes = rng.normal(-0.5, 1.0, 80)
        before = Measurement([KnowledgeSample("s", str(i), "", "", -3.0, 1, False) for i in range(80)])
        after = Measurement(
            [KnowledgeSample("s", str(i), "", "", -3.0 + float(c), 1, False) for i, c in enumerate(changes)]
        )
        found = compare_to_base(after, before, bootstrap=400)["K_p"]
        inside += found["low"] <= math.exp(-0.5) <= found["high"]
    assert inside >= 88


def test_frontier_points_use_the_questions_all_scales_share():
    few = Measurement(measurement(shift=-0.2, loss=1.5, n=60).knowledge[:30], measurement(loss=1.5).task[:30])
    points, area = frontier_points({1.0: FULL, 0.0: BASE, 0.5: few}, BASE, FULL, bootstrap=100)
    assert [point["scale"] for point in points] == [0.0, 0.5, 1.0]
    assert points[0]["K_p"]["value"] == 1.0 and points[0]["T_l"]["value"] == 0.0
    assert points[1]["K_p"]["value"] == pytest.approx(math.exp(-0.2))
    assert points[1]["T_l"]["value"] == pytest.approx(0.5)
    assert points[2]["K_p"]["value"] == pytest.approx(math.exp(-1.0))
    assert points[2]["knowledge_log_prob"]["value"] == pytest.approx(-1.0)
    expected = 0.5 * (1 + math.exp(-0.2)) / 2 + 0.5 * (math.exp(-0.2) + math.exp(-1.0)) / 2
    assert area["value"] == pytest.approx(expected)
    assert area["low"] <= area["value"] <= area["high"]


def test_the_interval_of_an_area_is_that_of_its_points_resampled_together():
    """Of two points the area is T_l (1 + K_p) / 2, and the two vary apart: between the ends of both intervals."""
    half = measurement(shift=-0.2, loss=1.5, noise=0.3)
    points, area = frontier_points({0.0: BASE, 1.0: half}, BASE, FULL, bootstrap=300)
    assert area["high"] - area["low"] > 0
    edges = [points[1]["T_l"][end] * (1 + points[1]["K_p"][end]) / 2 for end in ("low", "high")]
    assert edges[0] <= area["low"] < area["high"] <= edges[1]


def test_frontier_without_full_has_no_area():
    points, area = frontier_points({0.0: BASE, 1.0: FULL}, BASE, None, bootstrap=50)
    assert area is None and points[1]["T_l"] is None and points[1]["K_p"] is not None
