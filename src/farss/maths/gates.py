"""How much of each module's update is kept: scales by Gauss and Newton, with all modules' effects on each other.

A trained update is `sum_l a_l dW_l` with a scale for every module, all 1 after training. Per sequence j, one backward
pass gives `J[j, l] = <gradient of its loss at a = 1, dW_l>`. To second order the task's loss changes by `mean(J_t)'(a -
1) + 1/2 (a - 1)' H (a - 1)` with `H = J_t' J_t / N`, and what is forgotten is `1/2 a' C a` with `C = J_k' J_k / N` of
text that must be kept. Unlike a scale for the whole update, single modules that forget much for what they gain are
turned down alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import lsq_linear

from farss.errors import NumericalError, ShapeError

Array = NDArray[np.float64]

RIDGE = 1e-3
"""Added to H as a share of its mean diagonal: modules whose effects no sequence tells apart share them."""


@dataclass(frozen=True)
class Effects:
    """The first effects of scaling modules, of the task and of what must be kept.

    Attributes:
        task: J_t [sequences, modules], of each sequence's mean loss, nats.
        keep: J_k [sequences, modules], likewise.
    """

    task: Array
    keep: Array

    def __post_init__(self) -> None:
        if self.task.ndim != 2 or self.keep.ndim != 2 or self.task.shape[1] != self.keep.shape[1]:
            raise ShapeError("effects of the same modules are needed", expected=self.task.shape, got=self.keep.shape)
        if not (np.isfinite(self.task).all() and np.isfinite(self.keep).all()):
            raise NumericalError("an effect of scaling a module is not finite")

    def curvature(self) -> Array:
        """H, [modules, modules], with its ridge."""
        found = self.task.T @ self.task / len(self.task)
        return found + RIDGE * max(np.trace(found) / len(found), np.finfo(np.float64).tiny) * np.eye(len(found))

    def forgetting(self) -> Array:
        """C, [modules, modules]."""
        return self.keep.T @ self.keep / len(self.keep)

    def scales(self, strength: float, *, most: float = 1.25) -> Array:
        """The scales, 0 to `most`, of least `task loss + strength * forgetting`, [modules].

        A convex problem with bounds, solved exactly by an active-set method.

        Args:
            strength: mu, what a nat forgotten counts in nats of the task; 0 asks for the best of the task alone.
            most: the largest scale.

        Raises:
            NumericalError: if no solution is found.
        """
        curvature = self.curvature()
        total = curvature + strength * self.forgetting()
        wanted = curvature.sum(1) - self.task.mean(0)
        lower = cholesky(total, lower=True)
        solved = lsq_linear(lower.T, solve_triangular(lower, wanted, lower=True), (0.0, most), method="bvls", tol=1e-13)
        if not solved.success:
            raise NumericalError("the scales of modules were not found", got=solved.message)
        return np.asarray(solved.x)
