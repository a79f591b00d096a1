"""Agreement of two sets of directions, against the subspaces they span."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from farss.errors import ShapeError
from farss.maths.agreement import agreement, rank_difference, weighted_agreement


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


def test_ranks_differ_by_their_mean_distance():
    assert rank_difference([4, 8], [6, 6]) == pytest.approx(2 / 6)
    assert rank_difference([3, 5], [3, 5]) == 0.0 and rank_difference([], []) == 0.0
    with pytest.raises(ShapeError, match="other modules"):
        rank_difference([1], [1, 2])


def test_a_weighted_agreement_is_the_share_of_what_could_be_gained():
    scores, sigma = torch.tensor([6.0, 5.0, 1.0, 0.0]), torch.ones(4)
    other = torch.tensor([6.0, 1.0, 5.0, 0.0])
    # Mean 3. Own choice {0, 1}: 5.5; the other's {0, 2}: 3.5. Both ways are alike here.
    assert weighted_agreement(scores, other, sigma, 2, "high") == pytest.approx(0.5 / 2.5)
    assert weighted_agreement(scores, other, sigma, 2, "low") == pytest.approx(0.5 / 2.5)
    assert weighted_agreement(scores, other, sigma, 1, "high") == pytest.approx(1.0)
    assert weighted_agreement(scores, scores - 40, sigma, 2, "low") == pytest.approx(1.0)  # the loss has no scale


def test_directions_of_nearly_equal_scores_may_be_exchanged():
    scores = torch.cat([torch.zeros(8), torch.full((8,), 9.0)]).double()
    jittered = scores + 1e-6 * torch.arange(16).flip(0)
    found = agreement(range(4), range(4, 8), 16)
    assert found.overlap == 0 and weighted_agreement(scores, jittered, torch.ones(16), 4, "low") > 0.999


def test_a_random_choice_agrees_by_chance_alone():
    generator = torch.Generator().manual_seed(0)
    one, two = torch.randn(2, 4000, generator=generator).double()
    for end in ("low", "high"):
        assert abs(weighted_agreement(one, two, torch.ones(4000), 400, end)) < 0.1


def test_zero_scores_count_as_the_smallest_and_nothing_to_gain_as_no_answer():
    scores, sigma = torch.tensor([-torch.inf, 1.0, 2.0, 3.0]), torch.ones(4)
    assert weighted_agreement(scores, torch.tensor([1.0, 1.0, 2.0, 3.0]), sigma, 2, "low") == pytest.approx(1.0)
    assert weighted_agreement(scores, scores, sigma, 4, "low") is None
    assert weighted_agreement(torch.zeros(4), scores, sigma, 2, "high") is None
    assert weighted_agreement(torch.full((4,), -torch.inf), scores, sigma, 2, "high") is None
