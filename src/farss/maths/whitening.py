"""A task's gradient in the metric of what must be kept: which directions gain most at a given price, in closed form.

Of all updates of rank r whose price `1/2 Tr(S_delta dW S_h dW')` is the same, the one along which the task's loss falls
fastest has the leading singular directions of `S_delta^(-1/2) G S_h^(-1/2)`, where G is the task's gradient (von
Neumann's trace inequality). The squares of the singular values are what each further rank gains, in every module in one
unit, so that ranks are given to modules by sorting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from farss.errors import NumericalError, PlanError, ShapeError


@dataclass(frozen=True)
class Root:
    """The eigenvalues and vectors of a positive definite matrix, for its inverse square root.

    Attributes:
        values: [k], positive.
        vectors: [k, k], orthonormal columns.
    """

    values: Tensor
    vectors: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> Root:
        """That of a symmetric matrix [k, k], damped so that it is positive definite.

        Raises:
            NumericalError: if it is not.
        """
        values, vectors = torch.linalg.eigh(matrix.double())
        if not bool(torch.isfinite(values).all()) or float(values[0]) <= 0:
            raise NumericalError("second moments are not positive definite", got=float(values[0]), do="damp them")
        return cls(values, vectors)

    def inverse(self) -> Tensor:
        """S^(-1/2), [k, k] float64, symmetric."""
        return (self.vectors * self.values.rsqrt()) @ self.vectors.t()


@dataclass(frozen=True)
class Whitened:
    """The whitened gradient of one module, decomposed.

    Attributes:
        gains: [k] descending; the square of the i-th is what the i-th direction adds to the gain at unit price.
        up: S_delta^(-1/2) U [m, k].
        down: V' S_h^(-1/2) [k, n].
    """

    gains: Tensor
    up: Tensor
    down: Tensor

    @classmethod
    def of(cls, gradient: Tensor, left: Root, right: Root) -> Whitened:
        """That of G [m, n], with S_delta [m, m] and S_h [n, n] of what must be kept.

        Raises:
            ShapeError: if the sizes do not belong together.
        """
        if tuple(gradient.shape) != (len(left.values), len(right.values)):
            found = (len(left.values), len(right.values))
            raise ShapeError("the moments are of another module", expected=tuple(gradient.shape), got=found)
        before, after = left.inverse(), right.inverse()
        u, gains, vt = torch.linalg.svd(before @ gradient.double() @ after, full_matrices=False)
        return cls(gains, before @ u, vt @ after)

    def update(self, rank: int, price: float) -> Tensor:
        """The steepest descent of the task of this rank whose Q is `price`, [m, n]."""
        gains = self.gains[:rank]
        # Tr(S_delta dW S_h dW') of sum_i g_i u_i v_i' is sum_i g_i^2 in the whitened coordinates; Q is half of it.
        size = (2 * price) ** 0.5 / gains.norm()
        return -size * (self.up[:, :rank] * gains) @ self.down[:rank]

    def share(self, rank: int) -> float:
        """How much of what can be gained at a small price fits into `rank` directions, from 0 to 1."""
        squares = self.gains.square()
        return float(squares[:rank].sum() / squares.sum())


def ranks_within(
    gains: Mapping[str, Tensor], sizes: Mapping[str, int], budget: int, *, least: int = 0, most: int | None = None
) -> dict[str, int]:
    """Ranks for all modules that gain most within a number of parameters.

    Directions are taken in the order of `gain^2 / (m + n)`; within a module they come in the order of their gain, so
    what is taken is a number of leading directions of each. What no whole direction fits into is left.

    Args:
        gains: module -> [k] descending, `Whitened.gains`.
        sizes: module -> m + n, the parameters of one rank.
        budget: parameters in all.
        least: rank that every module gets.
        most: rank that no module exceeds; None is its number of directions.

    Raises:
        PlanError: if the least ranks alone exceed the budget.
    """
    caps = {name: min(len(values), len(values) if most is None else most) for name, values in gains.items()}
    ranks = {name: min(least, cap) for name, cap in caps.items()}
    left = budget - sum(rank * sizes[name] for name, rank in ranks.items())
    if left < 0:
        raise PlanError("the least ranks exceed the budget", expected=f"at least {budget - left}", got=budget)
    further = [
        (float(gains[name][i] ** 2) / sizes[name], name, i)
        for name, cap in caps.items()
        for i in range(ranks[name], cap)
    ]
    full: set[str] = set()
    for _, name, _ in sorted(further, key=lambda one: (-one[0], one[2])):
        if name in full:
            continue
        if sizes[name] > left:
            full.add(name)  # a later direction of this module must not be taken before this one
            continue
        ranks[name], left = ranks[name] + 1, left - sizes[name]
    return ranks
