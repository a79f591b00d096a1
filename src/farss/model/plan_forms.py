"""What a plan of one `initialisation` holds, said by one object each; the plan knows none of them by name."""

from __future__ import annotations

import importlib
from typing import Any, ClassVar

REGISTRY = "farss.methods.forms"
"""The module that knows the forms of all methods; methods stand above plans, so it is asked for that of a plan."""


class PlanForm:
    """What a plan says beside ranks and scales; nothing unless a subclass says otherwise."""

    name: ClassVar[str]
    """The word of plans: their `initialisation`."""

    indexed: ClassVar[bool] = False
    """Whether it names singular directions of the weights."""

    drops: ClassVar[bool] = False
    """Whether the directions it names are dropped from the weight: at most one per unit of rank, then."""

    keeps_factors: ClassVar[bool] = False
    """Whether the adapter starts from factors that the method made, which are kept beside the plan."""

    reads_norms: ClassVar[bool] = False
    """Whether it begins from the norms of whole weights, so that these must be in memory together."""

    def further_parameters(self, shape: tuple[int, int], rank: int) -> int:
        """How many parameters of a module are trained beside B and A.

        Args:
            shape: (m, n) of its weight.
            rank: of its adapter.
        """
        return 0


def registry() -> Any:
    """The module `farss.methods.forms`."""
    return importlib.import_module(REGISTRY)
