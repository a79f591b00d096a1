"""The whitened gradient reaches its bound, and no other update does better at its price."""

from __future__ import annotations

import itertools

import pytest
import torch

from farss.errors import NumericalError, PlanError, ShapeError
from farss.maths.quadratic import Dense, price
from farss.maths.whitening import Root, Whitened, ranks_within

M, N = 12, 9


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def moments(size: int, seed: int) -> torch.Tensor:
    rows = draw(60, size, seed=seed) * torch.logspace(-2, 1, size, dtype=torch.float64)
    return rows.t() @ rows / 60 + 1e-3 * torch.eye(size, dtype=torch.float64)


@pytest.fixture
def module() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Whitened]:
    gradient, left, right = draw(M, N, seed=1), moments(M, 2), moments(N, 3)
    return gradient, left, right, Whitened.of(gradient, Root.of(left), Root.of(right))


@pytest.mark.parametrize("rank", [1, 3, N])
def test_the_update_has_its_price_and_reaches_the_bound(module, rank):
    gradient, left, right, whitened = module
    update = whitened.update(rank, 0.07)
    assert float(price(update, Dense(left), Dense(right))) == pytest.approx(0.07, rel=1e-9)
    bound = float((2 * 0.07 * whitened.gains[:rank].square().sum()).sqrt())
    assert float(-(gradient * update).sum()) == pytest.approx(bound, rel=1e-9)
    assert int(torch.linalg.matrix_rank(update)) == rank


def test_no_other_update_of_the_rank_and_price_gains_more(module):
    gradient, left, right, whitened = module
    best = float(-(gradient * whitened.update(2, 1.0)).sum())
    plain = torch.linalg.svd(gradient)
    others = [(plain.U[:, :2] * plain.S[:2], plain.Vh[:2])]
    others += [(draw(M, 2, seed=s), draw(2, N, seed=s + 999)) for s in range(200)]
    # near ones too: the optimum itself, moved a little
    others += [
        (whitened.up[:, :2] * whitened.gains[:2] + 0.01 * draw(M, 2, seed=s), whitened.down[:2]) for s in range(200)
    ]
    for up, down in others:
        size = float(price(up @ down, Dense(left), Dense(right))) ** 0.5
        assert abs(float((gradient * (up @ down)).sum())) / size <= best * (1 + 1e-9)


def test_the_share_grows_to_one(module):
    shares = [module[3].share(rank) for rank in range(N + 1)]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == pytest.approx(1)


def test_ranks_are_the_best_of_all_that_fit():
    gains = {"a": torch.tensor([5.0, 2.0, 1.0]), "b": torch.tensor([4.0, 3.5, 0.1]), "c": torch.tensor([1.5, 1.4])}
    sizes = {"a": 4, "b": 4, "c": 4}  # equal sizes: the greedy choice is the optimum
    found = ranks_within(gains, sizes, 16)

    def gain(ranks: tuple[int, ...]) -> float:
        return sum(float(values[:r].square().sum()) for values, r in zip(gains.values(), ranks, strict=True))

    fitting = [r for r in itertools.product(range(4), range(4), range(3)) if 4 * sum(r) <= 16]
    assert gain(tuple(found.values())) == pytest.approx(max(map(gain, fitting)))
    assert ranks_within(gains, sizes, 16, least=1, most=2) == {"a": 1, "b": 2, "c": 1}


def test_a_direction_is_never_taken_before_a_stronger_one_of_its_module():
    gains = {"wide": torch.tensor([9.0, 8.0]), "thin": torch.tensor([1.0, 0.9])}
    assert ranks_within(gains, {"wide": 10, "thin": 2}, 13) == {"wide": 1, "thin": 1}


def test_what_cannot_be_done_is_refused(module):
    with pytest.raises(PlanError, match="exceed the budget"):
        ranks_within({"a": torch.ones(3)}, {"a": 4}, 7, least=2)
    with pytest.raises(NumericalError, match="not positive definite"):
        Root.of(torch.diag(torch.tensor([0.0, 1.0])))
    with pytest.raises(ShapeError, match="another module"):
        Whitened.of(module[0].t(), Root.of(module[1]), Root.of(module[2]))
