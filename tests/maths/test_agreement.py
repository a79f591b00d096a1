"""Agreement of two sets of directions, against the subspaces they span."""

from __future__ import annotations

import numpy as np
import pytest

from farss.errors import ShapeError
from farss.maths.agreement import agreement


def test_by_hand():
    found = agreement([0, 1, 2, 3], [2, 3, 4, 5], 8)
    assert (found.jaccard, found.overlap, found.chance, found.above_chance) == (2 / 6, 0.5, 0.5, 0.0)
    assert agreement([3, 1], [1, 3], 4).above_chance == 1.0
    assert agreement([0], [1], 4).above_chance == pytest.approx(-1 / 3)


def test_all_directions_cannot_disagree():
    found = agreement(range(4), range(4), 4)
    assert found.overlap == found.chance == 1.0 and found.above_chance is None


def test_the_overlap_is_that_of_the_subspaces():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((12, 9)))[0]
    first, second = [0, 2, 5, 7], [2, 5, 6, 8]
    expected = np.linalg.norm(basis[:, first].T @ basis[:, second]) ** 2 / 4
    assert agreement(first, second, 9).overlap == pytest.approx(expected)


def test_chance_is_the_mean_over_random_sets():
    rng = np.random.default_rng(1)
    drawn = [agreement(rng.permutation(20)[:5].tolist(), rng.permutation(20)[:8].tolist(), 20) for _ in range(4000)]
    assert np.mean([found.overlap for found in drawn]) == pytest.approx(drawn[0].chance, abs=0.02)


@pytest.mark.parametrize(("first", "second"), [([], [0]), ([0], []), ([4], [0]), ([0], [-1])])
def test_impossible_sets_are_refused(first, second):
    with pytest.raises(ShapeError):
        agreement(first, second, 4)
