"""Scales of modules: the optimum by its conditions, and against what one scale for all can do."""

from __future__ import annotations

import numpy as np
import pytest

from farss.errors import NumericalError, ShapeError
from farss.maths.gates import Effects

MODULES = 7


@pytest.fixture
def effects() -> Effects:
    drawn = np.random.default_rng(3)
    task = drawn.normal(-0.3, 1.0, (40, MODULES)) * np.linspace(0.2, 2, MODULES)
    return Effects(task, drawn.normal(size=(50, MODULES)) * np.linspace(3, 0.1, MODULES))


def objective(effects: Effects, scales: np.ndarray, strength: float) -> float:
    moved = scales - 1
    task = effects.task.mean(0) @ moved + 0.5 * moved @ effects.curvature() @ moved
    return float(task + 0.5 * strength * scales @ effects.forgetting() @ scales)


@pytest.mark.parametrize("strength", [0.0, 0.1, 1.0, 30.0])
def test_the_scales_meet_the_conditions_of_the_optimum(effects, strength):
    scales = effects.scales(strength)
    slope = effects.task.mean(0) + effects.curvature() @ (scales - 1) + strength * effects.forgetting() @ scales
    low, high = scales <= 1e-9, scales >= 1.25 - 1e-9
    assert (slope[low] >= -1e-8).all() and (slope[high] <= 1e-8).all()
    np.testing.assert_allclose(slope[~low & ~high], 0, atol=1e-8)
    assert low.any() or high.any() or strength == 0.1  # some bound binds, so the conditions above say something


def test_no_single_scale_does_better(effects):
    for strength in (0.1, 1.0):
        best = min(objective(effects, np.full(MODULES, a), strength) for a in np.linspace(0, 1.25, 101))
        assert objective(effects, effects.scales(strength), strength) < best


def test_the_more_forgetting_counts_the_less_is_forgotten(effects):
    kept = [s @ effects.forgetting() @ s for s in (effects.scales(mu) for mu in (0.0, 0.1, 1.0, 10.0, 1e6))]
    assert kept == sorted(kept, reverse=True) and kept[-1] < 1e-6 * kept[0]


def test_effects_of_other_modules_or_none_are_refused():
    with pytest.raises(ShapeError, match="same modules"):
        Effects(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(NumericalError, match="not finite"):
        Effects(np.ones((2, 3)), np.full((2, 3), np.nan))
