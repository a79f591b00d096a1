"""What an update of a weight costs where a Kronecker-factored curvature is known: a quadratic form, and its gradient.

For an update dW [m, n], and second moments S_delta [m, m] of output gradients and S_h [n, n] of inputs,

    Q(dW) = 1/2 Tr(S_delta dW S_h dW'),

which to second order is the Kullback-Leibler divergence, in nats per token, that the update causes on the text of the
moments, as far as this module alone causes it (K-FAC: Martens and Grosse 2015). The moments are needed only as maps
from thin matrices to thin matrices, so each may be dense, of a few directions and a diagonal, or a sample of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from farss.errors import NumericalError, ShapeError


class Side(Protocol):
    """A symmetric positive semidefinite matrix S [k, k], known by what it does."""

    @property
    def size(self) -> int:
        """K."""
        ...

    def times(self, x: Tensor) -> Tensor:
        """S x, for x [k, r], in the dtype of x."""
        ...

    def diagonal(self) -> Tensor:
        """[k], the diagonal of S."""
        ...


@dataclass(frozen=True)
class Dense:
    """S itself, [k, k]."""

    matrix: Tensor

    @property
    def size(self) -> int:
        """K."""
        return self.matrix.shape[0]

    def times(self, x: Tensor) -> Tensor:
        """S x, for x [k, r], in the dtype of x."""
        return self.matrix.to(x.dtype) @ x

    def diagonal(self) -> Tensor:
        """[k], the diagonal of S."""
        return self.matrix.diagonal()


@dataclass(frozen=True)
class Spiked:
    """`V diag(values) V' + diag(rest)`: the strongest directions, and of all others the diagonal.

    Attributes:
        vectors: V [k, q], orthonormal columns.
        values: [q].
        rest: [k], not negative.
    """

    vectors: Tensor
    values: Tensor
    rest: Tensor

    @classmethod
    def of(cls, matrix: Tensor, count: int) -> Spiked:
        """The `count` strongest directions of a symmetric matrix [k, k]; its diagonal is kept exactly."""
        values, vectors = torch.linalg.eigh(matrix)
        values, vectors = values[-count:].clamp(min=0), vectors[:, -count:]
        rest = (matrix.diagonal() - vectors.square() @ values).clamp(min=0)
        return cls(vectors.contiguous(), values, rest)

    @property
    def size(self) -> int:
        """K."""
        return len(self.rest)

    def times(self, x: Tensor) -> Tensor:
        """S x, for x [k, r], in the dtype of x."""
        vectors, values, rest = (part.to(x.dtype) for part in (self.vectors, self.values, self.rest))
        return vectors @ (values[:, None] * (vectors.t() @ x)) + rest[:, None] * x

    def diagonal(self) -> Tensor:
        """[k], the diagonal of S."""
        return self.vectors.square() @ self.values + self.rest


@dataclass(frozen=True)
class Sampled:
    """`rows' rows / t + damping I`: a sample of the rows that S is the second moment of.

    Attributes:
        rows: [t, k].
        damping: added to the diagonal.
    """

    rows: Tensor
    damping: float = 0.0

    @property
    def size(self) -> int:
        """K."""
        return self.rows.shape[1]

    def times(self, x: Tensor) -> Tensor:
        """S x, for x [k, r], in the dtype of x."""
        rows = self.rows.to(x.dtype)
        return (rows.t() @ (rows @ x)) / len(rows) + self.damping * x

    def diagonal(self) -> Tensor:
        """[k], the diagonal of S."""
        return self.rows.square().mean(0) + self.damping


def damped(matrix: Tensor, share: float) -> Tensor:
    """`S + share * mean(diag S) I`: directions that the text did not show cost something, too.

    Args:
        matrix: S [k, k].
        share: of the mean of the diagonal, 0 or more.

    Raises:
        NumericalError: if S has no trace, or one that is not finite.
    """
    mean = matrix.diagonal().mean()
    if not bool(torch.isfinite(mean)) or float(mean) <= 0:
        raise NumericalError("second moments are zero or not finite", got=float(mean))
    return matrix + share * mean * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)


def price(update: Tensor, left: Side, right: Side) -> Tensor:
    """Q of a whole update, differentiable by autograd.

    Args:
        update: dW [m, n].
        left: S_delta [m, m].
        right: S_h [n, n].

    Raises:
        ShapeError: if the sizes do not belong together.
    """
    _check(update.shape[0], update.shape[1], left, right)
    return 0.5 * (left.times(update) * right.times(update.t()).t()).sum()


@dataclass(frozen=True)
class Start:
    """What an adapter starts from, with its products, which are computed once.

    Attributes:
        up: B0 [m, r].
        down: A0 [r, n].
        up_times: S_delta B0 [m, r].
        down_times: S_h A0' [n, r].
    """

    up: Tensor
    down: Tensor
    up_times: Tensor
    down_times: Tensor

    @classmethod
    def of(cls, up: Tensor, down: Tensor, left: Side, right: Side) -> Start:
        """That of B0 and A0."""
        return cls(up, down, left.times(up), right.times(down.t()))


def low_rank_price(
    up: Tensor, down: Tensor, left: Side, right: Side, *, scale: float = 1.0, start: Start | None = None
) -> Tensor:
    """Q of `scale (B A - B0 A0)` without the matrix itself: two thin products with the moments.

    The update is written `[B - B0, B0] [A; A - A0]`, in which nothing cancels. The gradient is exact:
    `dQ/dU = s^2 S_delta U V S_h V'` and `dQ/dV = s^2 U' S_delta U V S_h` for the update `s U V`.

    Args:
        up: with `start` B - B0, else B; [m, r].
        down: with `start` A - A0, else A; [r, n].
        left: S_delta [m, m].
        right: S_h [n, n].
        scale: s.
        start: B0 and A0, where the adapter started from a part of the weight.

    Returns:
        Q, a scalar of the dtype of `up`, differentiable with respect to `up` and `down`.

    Raises:
        ShapeError: if the sizes do not belong together.
    """
    _check(up.shape[0], down.shape[1], left, right)
    if up.shape[1] != down.shape[0] or (start is not None and start.up.shape != up.shape):
        raise ShapeError("factors of one rank are needed", expected=tuple(up.shape), got=tuple(down.shape))
    return _LowRankPrice.apply(up, down, left, right, scale, start)  # type: ignore[no-any-return]  # untyped in torch


class _LowRankPrice(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, up: Tensor, down: Tensor, left: Side, right: Side, scale: float, start: Start | None
    ) -> Tensor:
        left_up, right_down = left.times(up), right.times(down.t())  # S_d U [m, R] and S_h V' [n, R]
        if start is not None:
            up, left_up = torch.cat([up, start.up], 1), torch.cat([left_up, start.up_times], 1)
            down = torch.cat([down + start.down, down])
            right_down = torch.cat([right_down + start.down_times, right_down], 1)
        inner_left, inner_right = up.t() @ left_up, down @ right_down  # U' S_d U and V S_h V', [R, R]
        ctx.save_for_backward(left_up, right_down, inner_left, inner_right)
        ctx.scale, ctx.paired = scale, start is not None
        return 0.5 * scale**2 * (inner_left * inner_right.t()).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]  # fixed arity
        left_up, right_down, inner_left, inner_right = ctx.saved_tensors
        factor = gradient * ctx.scale**2
        for_up, for_down = left_up @ inner_right, inner_left @ right_down.t()
        if ctx.paired:  # B0 does not move, and A stands in both halves
            rank = for_up.shape[1] // 2
            for_up, for_down = for_up[:, :rank], for_down[:rank] + for_down[rank:]
        return factor * for_up, factor * for_down, None, None, None, None


def _check(rows: int, columns: int, left: Side, right: Side) -> None:
    if (left.size, right.size) != (rows, columns):
        raise ShapeError(
            "the moments are of another module", expected=f"{rows} by {columns}", got=f"{left.size} by {right.size}"
        )
