"""How many calibration rows are enough: read in doubling steps until two disjoint halves ask for the same plan.

Of N rows, the plans of two halves are made from N/2 rows each. The error of a score has a variance inverse to the rows,
so the scores of the halves differ by four times the variance of the whole's. What a choice of directions loses by an
error of the scores is of second order in it: where the halves lose a share of 0.10 against each other, the whole loses
about 0.025 against endless rows. Ranks follow importances in first order, so the whole's are off by about half of what
the halves differ.
"""

from __future__ import annotations

import statistics
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from farss.config import MOST_ROWS, FarssConfig, Recipe
from farss.maths.agreement import rank_difference, weighted_agreement
from farss.maths.selection import Direction
from farss.methods import get_method
from farss.methods.base import Evidence, RankCapWarning
from farss.model.targets import Target, layer_count
from farss.reading import AMOUNT, COUNT, object_of

LEAST_ROWS = 8
"""Rows of the first step: halves of four texts each. Of fewer, the halves' agreement is that of single texts."""

STEADY_DIRECTIONS = 0.9
"""Weighted agreement of the halves from which their choice of directions counts as the same."""

STEADY_RANKS = 0.1
"""Difference of the halves' ranks, relative to the mean rank, up to which their maps count as the same."""

METHOD = "farss"
"""Whose ranks are compared. Directions are compared at both ends of every module, whatever a method takes of them."""

UNDIVIDED = "farss-init"
"""Whose ranks are compared where modules cannot be told shallow from deep: equal ones."""


@dataclass(frozen=True)
class Agreed:
    """How far the plans of two halves agree, over all modules.

    Attributes:
        ranks: mean absolute difference of the ranks of shallow modules, relative to their mean rank.
        low, high: weighted agreement about the lowest and the highest directions, mean over modules; None where every
            module takes all its directions.
    """

    ranks: float
    low: float | None
    high: float | None

    @property
    def steady(self) -> bool:
        """Whether the halves ask for the same plan."""
        directions = [end for end in (self.low, self.high) if end is not None]
        return self.ranks <= STEADY_RANKS and all(end >= STEADY_DIRECTIONS for end in directions)

    @property
    def directions(self) -> float | None:
        """The less steady end."""
        return min((end for end in (self.low, self.high) if end is not None), default=None)


@dataclass(frozen=True)
class Step:
    """What was seen after a step: rows and tokens of both halves together, and how far these agreed."""

    rows: int
    tokens: int
    agreed: Agreed

    def says(self) -> str:
        """One line of it."""
        found, directions = self.agreed, self.agreed.directions
        held = "" if directions is None else f"directions agree to {directions:.3f} (from {STEADY_DIRECTIONS} on), "
        return (
            f"calibration: {self.rows} rows, {self.tokens:,} tokens: in two halves "
            f"{held}ranks differ by {100 * found.ranks:.1f} % (up to {100 * STEADY_RANKS:.0f} %)"
        )


@dataclass(frozen=True)
class Settlement:
    """The steps that were taken, and why the last one was.

    Attributes:
        steps: ascending.
        rows: that were to be had: those of the data, at most `MOST_ROWS`.
    """

    steps: tuple[Step, ...]
    rows: int

    @property
    def reason(self) -> str:
        """Why no further rows are read."""
        last = self.steps[-1]
        if last.agreed.steady:
            return "the halves agree"
        return f"no more than {MOST_ROWS} are read" if last.rows >= MOST_ROWS else "there are no more"

    @property
    def over(self) -> bool:
        """Whether no further rows are read."""
        return bool(self.steps) and (self.steps[-1].agreed.steady or self.steps[-1].rows >= self.rows)

    def after(self, step: Step, *, quiet: bool = False) -> Settlement:
        """The settlement with one more step, which is told on standard error."""
        found = Settlement((*self.steps, step), self.rows)
        if not quiet:
            print(f"{step.says()}: {found.reason if found.over else 'more rows'}", file=sys.stderr, flush=True)
        return found

    def to_mapping(self) -> dict[str, Any]:
        """As JSON; `from_mapping` reads it back."""
        return {"steps": [asdict(step) for step in self.steps], "available": self.rows, "reason": self.reason}

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """What `to_mapping` wrote."""
        steps = (Step(**{**step, "agreed": Agreed(**step["agreed"])}) for step in mapping["steps"])
        return cls(tuple(steps), mapping["available"])


SHARE = {"type": ["number", "null"], "maximum": 1}
SETTLEMENT = object_of(
    steps={
        "type": "array",
        "items": object_of(rows=COUNT, tokens=COUNT, agreed=object_of(ranks=AMOUNT, low=SHARE, high=SHARE)),
    },
    available=COUNT,
)
"""The schema of what `Settlement.to_mapping` gives."""


def settles(recipe: Recipe) -> bool:
    """Whether the data decide how many rows are read; not where other settings say which batches are."""
    init = recipe.init
    return recipe.data.calibration_rows == "auto" and init.compat == "none" and init.max_batches is None


def sizes(rows: int) -> list[int]:
    """Rows of each step, if `rows` are to be had: doubling, the last one all of them."""
    found = [LEAST_ROWS]
    while found[-1] < rows:
        found.append(2 * found[-1])
    return [*found[:-1], min(rows, found[-1])]


def agreed(targets: Sequence[Target], halves: tuple[Evidence, Evidence], *configs: FarssConfig) -> Agreed:
    """How far the halves agree: of several configurations, in what they agree least.

    Args:
        targets: in model order.
        halves: scores of each half.
        configs: resolved configurations, at least one.
    """
    found = [_agreed(targets, halves, config) for config in configs]
    low, high = (
        [end for end in ends if end is not None] for ends in zip(*((f.low, f.high) for f in found), strict=True)
    )
    return Agreed(max(one.ranks for one in found), min(low, default=None), min(high, default=None))


def _agreed(targets: Sequence[Target], halves: tuple[Evidence, Evidence], config: FarssConfig) -> Agreed:
    layers = config.shallow_layers or 0
    splits = all(target.layer is not None for target in targets) and layers <= layer_count(targets)
    method = get_method(METHOD if splits else UNDIVIDED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankCapWarning)  # said once, of the plan that is kept
        one, two = (method.plan(targets, half, config).targets for half in halves)
    shallow = [place for place, row in enumerate(one) if row.region == "shallow"]
    return Agreed(
        ranks=rank_difference(*([plan[place].rank for place in shallow] for plan in (one, two))),
        low=_end(targets, halves, [row.rank for row in one], "low"),
        high=_end(targets, halves, [row.rank for row in one], "high"),
    )


def _end(
    targets: Sequence[Target], halves: tuple[Evidence, Evidence], ranks: Sequence[int], end: Direction
) -> float | None:
    found = []
    for target, rank in zip(targets, ranks, strict=True):
        first, second = (half.scores(target).log_s for half in halves)
        found.append(weighted_agreement(first, second, halves[0].sigma(target), rank, end))
    known = [share for share in found if share is not None]
    return statistics.fmean(known) if known else None
