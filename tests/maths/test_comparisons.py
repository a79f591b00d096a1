"""Comparisons of many methods: known values, coverage of the whole family, and controls that must fail."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from farss.errors import NumericalError, ShapeError
from farss.maths.comparisons import all_differences, holm, seed_weights


@pytest.mark.parametrize(
    ("p", "adjusted"),
    [
        ([0.01], [0.01]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.04, 0.001, 0.2, 0.02], [0.08, 0.004, 0.2, 0.06]),
        ([0.9, 0.8], [1.0, 1.0]),
    ],
)
def test_holm_by_hand(p, adjusted):
    np.testing.assert_allclose(holm(p), adjusted, rtol=1e-12)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_resampled_seeds_have_the_variance_of_the_mean(count):
    values = np.random.default_rng(0).normal(size=count)
    means = seed_weights({"lora": count}, 40_000)["lora"] @ values
    assert means.mean() == pytest.approx(values.mean(), abs=0.02)
    assert means.var() == pytest.approx(values.var(ddof=1) / count, rel=0.05)


def test_one_training_is_always_drawn_and_methods_are_drawn_apart():
    weights = seed_weights({"a": 1, "b": 3, "c": 3}, 50)
    assert (weights["a"] == 1).all()
    np.testing.assert_allclose(weights["b"].sum(axis=1), 1)
    assert (weights["b"] != weights["c"]).any()
    assert (weights["b"] == seed_weights({"b": 3}, 50)["b"]).all()
    with pytest.raises(ShapeError, match="without a training"):
        seed_weights({"a": 0}, 5)


def normal_draws(errors, resamples=20_000, seed=0):
    return np.random.default_rng(seed).normal(size=(resamples, len(errors))) * np.asarray(errors)


def test_one_pair_gets_the_plain_interval():
    values = np.array([1.0, 0.0])
    found, critical = all_differences(values, values + normal_draws([0.3, 0.4]))
    assert critical == pytest.approx(norm.ppf(0.975), rel=0.02)
    assert found[0].error == pytest.approx(0.5, rel=0.02)
    assert (found[0].low, found[0].high) == pytest.approx((1 - 0.98, 1 + 0.98), abs=0.03)
    assert found[0].p == pytest.approx(2 * norm.sf(2), rel=0.1) and found[0].p == found[0].p_holm


def test_more_methods_widen_every_interval_but_less_than_bonferroni():
    widths = []
    for count in (2, 4, 8):
        values = np.arange(count, dtype=float)
        found, critical = all_differences(values, values + normal_draws(np.ones(count)))
        pairs = count * (count - 1) // 2
        assert len(found) == pairs and critical <= norm.ppf(1 - 0.025 / pairs) * 1.02
        widths.append(found[0].high - found[0].low)
    assert widths[0] < widths[1] < widths[2]


def test_turning_the_order_of_methods_turns_the_differences():
    values, draws = np.array([0.1, 0.5, 0.2]), normal_draws([0.1, 0.2, 0.3], 500)
    forward, _ = all_differences(values, values + draws)
    backward, _ = all_differences(values[::-1], (values + draws)[:, ::-1])
    there = {(d.a, d.b): (d.value, d.low, d.high, d.p_holm) for d in forward}
    back = {(2 - d.b, 2 - d.a): (-d.value, -d.high, -d.low, d.p_holm) for d in backward}
    for pair, numbers in there.items():
        assert numbers == pytest.approx(back[pair])


def test_what_has_no_spread_is_certain():
    values = np.array([1.0, 1.0, 0.5, 0.0])
    draws = np.tile(values, (99, 1))
    draws[:, 3] += normal_draws([0.1], 99)[:, 0]
    found, critical = all_differences(values, draws)
    same, apart = found[0], found[1]
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)
    assert (apart.low, apart.high) == (0.5, 0.5) and apart.p == pytest.approx(0.01)
    assert critical is not None and found[2].low < 1 < found[2].high
    assert all_differences([1.0, 1.0], np.ones((50, 2)))[1] is None


def test_undefined_resamples_are_left_out_for_all_within_a_tail():
    values, draws = np.array([0.3, 0.1]), normal_draws([0.1, 0.1], 1000)
    complete, _ = all_differences(values, (values + draws)[20:])
    broken = values + draws
    broken[:20, 1] = math.nan
    assert all_differences(values, broken)[0] == complete
    broken[:30, 0] = math.inf
    with pytest.raises(NumericalError, match="undefined on too many"):
        all_differences(values, broken)


@pytest.mark.parametrize(
    ("values", "shape", "level"), [([1.0], (9, 1), 0.9), ([1.0, 2.0], (9, 3), 0.9), ([1.0, 2.0], (9, 2), 1.0)]
)
def test_what_does_not_fit_is_refused(values, shape, level):
    with pytest.raises(ShapeError):
        all_differences(values, np.ones(shape), level)


METHODS, SEEDS, QUESTIONS, RESAMPLES, TRIALS = 4, 4, 40, 300, 250


def family_coverage(seed_spread: float, *, resample_seeds: bool, corrected: bool) -> float:
    """How often all intervals of a simulated comparison of equal methods hold zero together."""
    rng, held = np.random.default_rng(1), 0
    for trial in range(TRIALS):
        hardness = rng.normal(size=(1, 1, QUESTIONS))
        trainings = rng.normal(0, seed_spread, size=(METHODS, SEEDS, 1))
        answers = hardness + trainings + rng.normal(0, 0.5, size=(METHODS, SEEDS, QUESTIONS))
        counts = rng.multinomial(QUESTIONS, np.full(QUESTIONS, 1 / QUESTIONS), size=RESAMPLES) / QUESTIONS
        resampled = np.einsum("bq,msq->bms", counts, answers)
        weights = np.stack(list(seed_weights({str(m): SEEDS for m in range(METHODS)}, RESAMPLES, trial).values()), 1)
        if not resample_seeds:
            weights = np.full_like(weights, 1 / SEEDS)
        found, critical = all_differences(answers.mean(axis=(1, 2)), (resampled * weights).sum(axis=2))
        width = critical if corrected else norm.ppf(0.975)
        held += all(abs(d.value) <= width * d.error for d in found)
    return held / TRIALS


@pytest.mark.parametrize("seed_spread", [0.0, 0.3])
def test_all_intervals_hold_together_about_as_often_as_stated(seed_spread):
    assert 0.88 <= family_coverage(seed_spread, resample_seeds=True, corrected=True) <= 1.0


def test_without_correction_or_without_seeds_they_do_not():
    assert family_coverage(0.0, resample_seeds=False, corrected=False) < 0.85
    assert family_coverage(0.3, resample_seeds=False, corrected=True) < 0.5
