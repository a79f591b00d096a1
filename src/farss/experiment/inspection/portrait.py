"""What an inspection says: numbers per module and per layer, from the scores of the whole data and of its halves."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from farss.config import FarssConfig
from farss.experiment.initialisation.settling import STEADY_DIRECTIONS, STEADY_RANKS, Agreed
from farss.maths.agreement import agreement
from farss.maths.boundary import best_split, split_at
from farss.maths.energy import directions_for_share
from farss.maths.scores import default_shallow_layers
from farss.methods.base import Evidence, shallow_layer_count
from farss.model.plan import Plan, TargetPlan
from farss.model.targets import Target, layer_count

METHOD = "farss"
"""Whose plan is inspected."""

HELD_SHARE = 0.9
"""Share of the score sum whose directions are counted."""

RANKS = (8, 16, 32, 64, 128)
"""Ranks of the cost table."""

EXPORT_FACTOR = 2
"""A plain LoRA on the unchanged base holds start and end of each factor, so twice the rank."""


def describe_target(
    target: Target,
    evidence: Evidence,
    plans: tuple[TargetPlan, TargetPlan, TargetPlan],
    energy: tuple[float, float | None],
) -> dict[str, Any]:
    """The entry of one module.

    Args:
        target: the module.
        evidence: scores of the whole data.
        plans: its plan from the whole data and from each half.
        energy: share of the five largest squared singular values, of its weight and of the hidden states entering it;
            the latter None where their second moment was not kept.
    """
    whole, *halves = plans
    k = min(target.shape)
    scores = evidence.scores(target)
    one, two = (plan.indices or () for plan in halves)
    agreed = agreement(one, two, k)
    held = directions_for_share(scores.log_s, HELD_SHARE)
    return {
        "name": target.name,
        "layer": target.layer,
        "kind": target.kind,
        "shape": list(target.shape),
        "region": whole.region,
        "rank": whole.rank,
        "importance": scores.importance,
        "energy_weight": _known(energy[0]),
        "energy_input": None if energy[1] is None else _known(energy[1]),
        "directions": k,
        "directions_held": held,
        "held_share": held / k,
        "log_score_quantiles": None if whole.log_score_quantiles is None else list(whole.log_score_quantiles),
        "selected": list(whole.indices or ()),
        "stability": {
            "ranks": [plan.rank for plan in halves],
            "jaccard": agreed.jaccard,
            "overlap": agreed.overlap,
            "chance": agreed.chance,
            "above_chance": agreed.above_chance,
        },
    }


def describe_layers(rows: Sequence[dict[str, Any]], inputs: dict[str, str]) -> list[dict[str, Any]]:
    """One entry per layer: the sum of its modules' importances, the mean of their logarithms, and means of the rest.

    A layer's sum is often that of one module with massive activations; the mean of logarithms gives each its say.

    Args:
        rows: of `describe_target`.
        inputs: module name -> the module whose input it shares; a shared input counts once.
    """
    layers = []
    for layer in sorted({row["layer"] for row in rows}):
        mine = [row for row in rows if row["layer"] == layer]
        distinct = {inputs[row["name"]]: row["energy_input"] for row in mine}
        layers.append(
            {
                "layer": layer,
                "region": mine[0]["region"],
                "modules": len(mine),
                "importance": sum(row["importance"] for row in mine),
                "log_importance": _mean_log(row["importance"] for row in mine),
                "energy_weights": _mean(row["energy_weight"] for row in mine),
                "energy_inputs": _mean(distinct.values()),
                "held_share": _mean(row["held_share"] for row in mine),
                "overlap": _mean(row["stability"]["overlap"] for row in mine),
                "chance": _mean(row["stability"]["chance"] for row in mine),
                "above_chance": _mean(row["stability"]["above_chance"] for row in mine),
            }
        )
    return layers


def describe_boundary(
    targets: Sequence[Target], layers: Sequence[dict[str, Any]], config: FarssConfig
) -> dict[str, Any]:
    """The number of shallow layers: of the plan, by the default rule, and as the importances suggest.

    The suggestion is the cut of the layers' mean log importances into two groups that leaves least squares, if the
    first group is the more important one; else the default rule stands.
    """
    default = default_shallow_layers(layer_count(targets))
    logs = [row["log_importance"] for row in layers if row["log_importance"] is not None]
    found: dict[str, Any] = {
        "planned": shallow_layer_count(targets, config),
        "default": default,
        "suggested": default,
        "split": None,
        "gain": None,
        "default_gain": None,
        "factor": None,
    }
    split = best_split(logs) if len(logs) == len(layers) else None
    if split is None:
        return found
    at_default = split_at(logs, default) if default < len(logs) else None
    factor = math.exp(split.first - split.second)
    return found | {
        "suggested": split.count if factor > 1 else default,
        "split": split.count,
        "gain": split.gain,
        "default_gain": None if at_default is None else at_default.gain,
        "factor": factor,
    }


def describe_stability(rows: Sequence[dict[str, Any]], tokens: Sequence[int], steady: Agreed) -> dict[str, Any]:
    """How far the plans of the two halves agree over all modules, and the sizes this depends on.

    Args:
        rows: of `describe_target`.
        tokens: of each half.
        steady: what decides whether the rows are enough.
    """
    agreed = [row["stability"] for row in rows]
    known = [row for row in rows if row["stability"]["above_chance"] is not None]
    least = min(known, key=lambda row: row["stability"]["above_chance"], default=None)
    return {
        "overlap": statistics.median(one["overlap"] for one in agreed),
        "jaccard": statistics.median(one["jaccard"] for one in agreed),
        "chance": statistics.median(one["chance"] for one in agreed),
        "above_chance": _median(row["stability"]["above_chance"] for row in known),
        "least": least and {"name": least["name"], "above_chance": least["stability"]["above_chance"]},
        "low": steady.low,
        "high": steady.high,
        "ranks": steady.ranks,
        "steady": steady.steady,
        "tokens": list(tokens),
        "largest_k": max(row["directions"] for row in rows),
    }


def warnings_of(stability: dict[str, Any]) -> list[str]:
    """What a reader must know before relying on the choice of directions."""
    if stability["steady"]:
        return []
    tokens, k = min(stability["tokens"]), stability["largest_k"]
    ends = [end for end in (stability["low"], stability["high"]) if end is not None]
    directions = f"directions agree to {min(ends):.2f} (from {STEADY_DIRECTIONS} on it is), " if ends else ""
    found = [
        f"The plan is not stable: of the two halves of the calibration data, weighted by the scores, {directions}"
        f"ranks differ by {100 * stability['ranks']:.0f} % (up to {100 * STEADY_RANKS:.0f} % it is). The smaller half "
        f"has {tokens:,} tokens, modules have up to {k} directions; take more calibration rows."
    ]
    if tokens < k:
        found.append(
            f"Too few tokens: the smaller half of the calibration data has {tokens:,} and modules have up to {k} "
            f"directions, so that its second moments cannot be of full rank; take more calibration rows."
        )
    return found


def describe_spectra(plan: Plan, targets: Sequence[Target], evidence: Evidence) -> list[dict[str, Any]]:
    """Singular values, scores and selection of one shallow and one deep module, the middle one of each region."""
    by_name = {target.name: target for target in targets}
    found = []
    for region in ("shallow", "deep"):
        planned = [row for row in plan.targets if row.region == region]
        if planned:
            row = planned[len(planned) // 2]
            target = by_name[row.name]
            found.append(
                {
                    "name": row.name,
                    "region": region,
                    "sigma": evidence.sigma(target).tolist(),
                    "log_scores": _finite(evidence.scores(target).log_s),
                    "chosen": {METHOD: list(row.indices or ())},
                }
            )
    return found


def cost_table(plan: Plan, parameters: int, dtype: torch.dtype) -> list[dict[str, Any]]:
    """What adapters of one rank in every module take, and what the plan takes (its rank is None).

    Args:
        plan: names modules and shapes.
        parameters: of the model.
        dtype: of the model; adapters are float32, or float64 on a float64 model.
    """
    width = torch.promote_types(torch.float32, dtype).itemsize
    sizes = {rank: sum(min(rank, *t.shape) * sum(t.shape) for t in plan.targets) for rank in RANKS}
    return [
        {
            "rank": rank,
            "trainable_params": size,
            "share": size / parameters,
            "adapter_bytes": size * width,
            "exported_bytes": EXPORT_FACTOR * size * width,
        }
        for rank, size in ((None, plan.trainable_parameters), *sizes.items())
    ]


def _finite(values: Tensor) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _mean_log(values: Iterable[float]) -> float | None:
    known = list(values)
    return statistics.fmean(math.log(value) for value in known) if min(known) > 0 else None


def _median(values: Iterable[float]) -> float | None:
    known = list(values)
    return statistics.median(known) if known else None
