"""Equal numbers of trainable parameters: each method's ranks solved for one budget."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from fractions import Fraction

from farss.config import FarssConfig, Match
from farss.methods import get_method
from farss.methods.base import Evidence, Method, RankCapWarning, SpectralMethod
from farss.methods.factored import FactorMethod
from farss.model.plan import Plan, TargetPlan
from farss.model.targets import Target

TOLERANCE = Fraction(1, 100)
"""How far from the budget, as a share of it, a method may end unannounced."""

CORRECTIONS = 4
"""How often ranks are raised for modules that have fewer directions than their shapes allow."""

Count = Callable[[FarssConfig], int]


class BudgetWarning(UserWarning):
    """No rank brings a method within the tolerance of its budget of trainable parameters."""


def budget_of(
    targets: Sequence[Target], evidence: Evidence, config: FarssConfig, match: Match, params: int | None = None
) -> int | None:
    """The trainable parameters that every adapter is to have, or None where ranks are what is equal.

    Args:
        targets: in model order.
        evidence: names the model; nothing else of it is read.
        config: a resolved configuration; plain `lora` at its `rank` is the reference.
        match: of the recipe.
        params: a budget that replaces the reference.
    """
    if match == "rank":
        return None
    return params or trainable_parameters(get_method("lora"), targets, evidence, config)


def plan_for(
    method: Method, targets: Sequence[Target], evidence: Evidence, config: FarssConfig, budget: int | None
) -> Plan:
    """The method's plan, its ranks solved for a budget of trainable parameters where there is one.

    Args:
        method: of the registry; one that trains the weights has no ranks to solve.
        targets: in model order.
        evidence: must hold what the method needs.
        config: a resolved configuration, whose ranks are kept where they already agree with the budget.
        budget: from `budget_of`.

    Returns:
        Plan with `requested_parameters` set to the budget; its settings hold the ranks that were solved.

    Raises:
        PlanError, NumericalError: as the method's own `plan`.
    """
    if budget is None or method.trains == "weights":
        return method.plan(targets, evidence, config)
    made, counted = _plan_near(method, targets, evidence, config, budget)
    plan = made
    for _ in range(CORRECTIONS):
        if made.trainable_parameters == counted or _distance(plan, budget) <= TOLERANCE * budget:
            break
        # Some weights or gradients gave fewer directions than their shapes allow, which shows only now.
        raised = round(Fraction(budget * counted, made.trainable_parameters))
        made, counted = _plan_near(method, targets, evidence, config, raised)
        plan = min(plan, made, key=lambda found: _distance(found, budget))
    if _distance(plan, budget) > TOLERANCE * budget:
        difference = plan.trainable_parameters / budget - 1
        warnings.warn(
            f"{method.name}: {plan.trainable_parameters:,} trainable parameters where {budget:,} were asked for "
            f"({difference:+.1%}); rank {plan.settings['rank']} is the nearest there is",
            BudgetWarning,
            stacklevel=2,
        )
    return dataclasses.replace(plan, requested_parameters=budget)


def trainable_parameters(method: Method, targets: Sequence[Target], evidence: Evidence, config: FarssConfig) -> int:
    """What the plan of these settings would train, from shapes alone where the method makes factors of its own."""
    if not isinstance(method, FactorMethod):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RankCapWarning)  # the plan that is kept says it
            return method.plan(targets, evidence, config).trainable_parameters
    asked = method.ranks(targets, evidence, config)
    rows = tuple(
        TargetPlan(target.name, target.layer, "deep", target.shape, min(rank, method.limit(target)), scale=1.0)
        for target, rank in zip(targets, asked, strict=True)
    )
    counted = Plan(
        method=method.name,
        initialisation="factors",
        base=config.base,
        model_fingerprint=evidence.model_fingerprint,
        settings={},
        targets=rows,
        frozen=method.frozen,
        factors_digest="not made",
    )
    return counted.trainable_parameters


def _plan_near(
    method: Method, targets: Sequence[Target], evidence: Evidence, config: FarssConfig, budget: int
) -> tuple[Plan, int]:
    """The plan at the settings whose count is nearest to the budget, and that count."""
    known: dict[FarssConfig, int] = {}

    def count(candidate: FarssConfig) -> int:
        if candidate not in known:
            known[candidate] = trainable_parameters(method, targets, evidence, candidate)
        return known[candidate]

    divided = isinstance(method, SpectralMethod) and method.shallow_rank != "deep"
    bound = getattr(method, "largest_rank", None)
    most = bound(targets) if bound is not None else max(min(target.shape) for target in targets)
    settings = solved(count, config, budget, most, divided=divided)
    return method.plan(targets, evidence, settings), count(settings)


def solved(count: Count, config: FarssConfig, budget: int, most: int, *, divided: bool = False) -> FarssConfig:
    """The settings whose count of trainable parameters is nearest to the budget.

    First R alone moves, `r_avg` and `r_max` with it in their ratio. Where no R comes within the tolerance and the
    method gives shallow modules ranks of their own, `r_avg` leaves that ratio, `r_max` with it, at the two nearest R:
    as little as brings the count within the tolerance.

    Args:
        count: settings -> trainable parameters, not decreasing in the ranks.
        config: the settings to begin from, returned as they are if they agree with the budget.
        budget: number of trainable parameters.
        most: the largest R worth trying.
        divided: whether shallow modules have ranks of their own.
    """

    def miss(candidate: FarssConfig) -> int:
        return abs(count(candidate) - budget)

    if miss(config) <= TOLERANCE * budget:
        return config
    nearest = [at_rank(config, r) for r in passing(lambda r: count(at_rank(config, r)), budget, 1, most)]
    best = min(nearest, key=miss)
    if miss(best) <= TOLERANCE * budget or not divided:
        return best
    near = [r for r in _at_averages(count, nearest, budget, TOLERANCE) if miss(r) <= TOLERANCE * budget]
    if near:
        return min(near, key=lambda found: abs(Fraction(found.r_avg, found.rank) - Fraction(config.r_avg, config.rank)))
    return min([best, *_at_averages(count, nearest, budget, Fraction(0))], key=miss)


def _at_averages(count: Count, nearest: Sequence[FarssConfig], budget: int, short: Fraction) -> list[FarssConfig]:
    """Each of the settings with the `r_avg` around which its count gets to within the share `short` of the budget."""
    found = []
    for whole in nearest:
        wanted = budget * (1 - short if count(whole) < budget else 1 + short)
        ranks = passing(lambda r, whole=whole: count(at_average(whole, r)), wanted, 1, whole.rank)
        found += [at_average(whole, r) for r in ranks]
    return found


def at_rank(config: FarssConfig, rank: int) -> FarssConfig:
    """The settings with another R, and the shallow ranks in their ratio to it as far as whole numbers go."""
    share = Fraction(rank, config.rank)
    average = max(round(config.r_avg * share), 1)
    largest = max(round(config.r_max * share), average)
    return dataclasses.replace(config, rank=rank, r_avg=average, r_max=largest, r_min=min(config.r_min, average))


def at_average(config: FarssConfig, average: int) -> FarssConfig:
    """The settings with another mean of the shallow ranks, and their bound in its ratio to it."""
    largest = max(round(Fraction(config.r_max * average, config.r_avg)), average)
    return dataclasses.replace(config, r_avg=average, r_max=largest, r_min=min(config.r_min, average))


def passing(count: Callable[[int], int], wanted: Fraction | int, low: int, high: int) -> tuple[int, ...]:
    """The neighbours between which a count that does not decrease passes `wanted`; one end if it is never reached.

    Steps take turns between interpolation, which a count straight in the rank needs one of, and halving.
    """
    if low >= high or count(low) >= wanted:
        return (low,)
    if count(high) <= wanted:
        return (high,)
    straight = True
    while high - low > 1:
        share = Fraction(wanted - count(low), count(high) - count(low)) if straight else Fraction(1, 2)
        middle = min(max(low + round(share * (high - low)), low + 1), high - 1)
        low, high = (middle, high) if count(middle) <= wanted else (low, middle)
        straight = not straight
    return (low, high)


def _distance(plan: Plan, budget: int) -> int:
    return abs(plan.trainable_parameters - budget)
