"""Which methods differ: several trainings (seeds) of several methods, compared all with all.

The estimator of a method is the mean of a measure over its trainings, each against the same base and the same full
fine-tuning. A hierarchical bootstrap says how far chance carries it: a resample draws the questions of each set, the
same ones for all trainings of all methods, and the trainings of each method (`farss.maths.comparisons.seed_weights`).
The measure of every training is computed on the drawn questions and averaged over the drawn trainings. Differences of
methods, their simultaneous intervals and Holm's p-values come from these joint replicates (`all_differences`).

Two things are taken as given and not resampled: the one full fine-tuning that T_l is relative to, and the learning
rate. Seeds of equal number share the order of the data, which the resampling of each method apart does not use: where
such trainings resemble each other, the intervals are too wide, not too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from farss.errors import NumericalError
from farss.evaluation.frontier import area_under, frontier_panel
from farss.evaluation.panel import Panel, Statistic, Undefined, reason
from farss.evaluation.records import Measurement
from farss.evaluation.scores import measure, panel_models, run_column
from farss.maths.comparisons import all_differences, seed_weights

AREA = "frontier_area"
MEASURES = ("KT_l", AREA, "K_p", "T_l")
"""The measures in which methods are compared; the pairs of one of them are one family of comparisons."""
LEVEL = 0.95
LEAST_P = 0.01
"""The most that the smallest Holm-adjusted p-value may be: there are at least pairs / `LEAST_P` resamples."""


def compare_methods(
    methods: Mapping[str, Sequence[str]],
    runs: Mapping[str, Measurement],
    frontiers: Mapping[str, Mapping[float, Measurement]],
    base: Measurement,
    full: Measurement | None = None,
    *,
    bootstrap: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Every method's measures and all pairwise differences, over questions and trainings (see the module).

    Args:
        methods: the runs of each method, one per seed.
        runs: measurements by run, same questions.
        frontiers: measurements by run and scale of the update; equal scales for all, or there is no frontier area.
        base: of the untouched model.
        full: of the full fine-tuning that T_l is measured against; None if there is none.
        bootstrap: least number of resamples; more are taken where many pairs need them (`LEAST_P`).
        seed: of the resampling.

    Returns:
        {"level", "resamples", "methods": {method: {"runs", "seeds", measure: {"value", "low", "high"}}} with percentile
        intervals of their own, "measures": {measure: {"critical", "pairs": [{"a", "b", "value", "error", "low", "high",
        "p", "p_holm"}]}} with simultaneous ones, "undefined": {measure: why it is missing}}.

    Raises:
        DataError: if the models were not asked the same questions.
    """
    pairs = math.comb(len(methods), 2)
    resamples = max(bootstrap, math.ceil(pairs / LEAST_P))
    weights = seed_weights({name: len(found) for name, found in methods.items()}, resamples, seed)
    account: dict[str, Any] = {
        "level": LEVEL,
        "resamples": resamples,
        "methods": {name: {"runs": list(found), "seeds": len(found)} for name, found in methods.items()},
        "measures": {},
        "undefined": {},
    }
    chosen = {run: runs[run] for found in methods.values() for run in found}
    answers = Panel(panel_models(chosen, base, full), bootstrap=resamples, seed=seed)
    for name in MEASURES:
        try:
            if name == AREA:
                panel, statistic = _frontiers(chosen, frontiers, base, full, resamples, seed)
            else:
                panel, statistic = answers, _of_runs(answers, name)
            _compare(account, name, panel, statistic, methods, weights)
        except (Undefined, NumericalError) as error:
            account["undefined"][name] = reason(error)
    return account


def _of_runs(panel: Panel, name: str) -> Callable[[str], Statistic]:
    return lambda run: measure(panel, name, run_column(run))


def _frontiers(
    chosen: Mapping[str, Measurement],
    frontiers: Mapping[str, Mapping[float, Measurement]],
    base: Measurement,
    full: Measurement | None,
    resamples: int,
    seed: int,
) -> tuple[Panel, Callable[[str], Statistic]]:
    scales = {tuple(sorted(frontiers.get(run, ()))) for run in chosen}
    if len(scales) != 1 or not min(scales):
        raise Undefined("the runs were not all measured at the same scales of their update")
    panel = frontier_panel({run: frontiers[run] for run in chosen}, base, full, bootstrap=resamples, seed=seed)
    return panel, lambda run: area_under(panel, run, min(scales))


def _compare(
    account: dict[str, Any],
    name: str,
    panel: Panel,
    statistic: Callable[[str], Statistic],
    methods: Mapping[str, Sequence[str]],
    weights: Mapping[str, Any],
) -> None:
    """Add a measure's values and differences to the account.

    Raises:
        Undefined, NumericalError: if it does not exist for these runs.
    """
    values = [float(np.mean([panel.value(statistic(run)) for run in found])) for found in methods.values()]
    drawn = [
        (weights[method] * np.stack([panel.replicates(statistic(run)) for run in found], axis=1)).sum(axis=1)
        for method, found in methods.items()
    ]
    differences, critical = all_differences(values, np.stack(drawn, axis=1), LEVEL) if len(values) > 1 else ([], None)
    for method, value, replicates in zip(methods, values, drawn, strict=True):
        account["methods"][method][name], _ = panel.interval(value, replicates)
    names = list(methods)
    account["measures"][name] = {
        "critical": critical,
        "pairs": [
            {
                "a": names[d.a],
                "b": names[d.b],
                "value": d.value,
                "error": d.error,
                "low": d.low,
                "high": d.high,
                "p": d.p,
                "p_holm": d.p_holm,
            }
            for d in differences
        ],
    }
