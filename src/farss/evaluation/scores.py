"""Scores of one model, and what fine-tuning kept and gained, with paired intervals.

`K`, `T` and `KT` are the paper's accuracy ratios (Eq. 36-38). `K_p`, `T_l` and `KT_l` are their likelihood
counterparts, which tell methods apart with hundreds of questions. A measure that does not exist (a base that answers
nothing right, no full fine-tuning, a full fine-tuning that did not learn) is None, and "undefined" says why.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from farss.errors import NumericalError
from farss.evaluation.panel import Average, Panel, Statistic, Undefined
from farss.evaluation.records import Measurement
from farss.maths.metrics import harmonic, knowledge_kept, knowledge_kept_clipped, ratios, task_gained, task_share_gained

COMPARED = ("K_p", "T_l", "KT_l", "K", "T", "KT")
"""The measures in which two methods are compared."""


def summarise(measurement: Measurement) -> dict[str, dict[str, float | int]]:
    """The scores of one model.

    Returns:
        {key: {"value", "stderr", "n"}}, n questions or rows. Per knowledge set: "knowledge/<set>/accuracy" (share of
        right answers in words), "/log_prob" (nats per gold answer token), "/choice" (share chosen right among
        distractors), "/hit" (share whose greedy path spells the gold answer). Per task: "task/<name>/loss" (nats
        per response token), "/accuracy" (share of right final answers). What was not measured is left out. The
        standard errors are over questions; those of log_prob and loss are of a ratio of sums (delta method).
    """
    scores: dict[str, dict[str, float | int] | None] = {}
    for name in dict.fromkeys(sample.set for sample in measurement.knowledge):
        asked = [sample for sample in measurement.knowledge if sample.set == name]
        scores[f"knowledge/{name}/accuracy"] = _share([s.correct for s in asked])
        scores[f"knowledge/{name}/log_prob"] = _per_token(
            [s.log_prob * s.tokens for s in asked], [s.tokens for s in asked]
        )
        scores[f"knowledge/{name}/choice"] = _share([s.choice for s in asked])
        scores[f"knowledge/{name}/hit"] = _share([s.hit for s in asked])
    for name in dict.fromkeys(sample.task for sample in measurement.task):
        rows = [sample for sample in measurement.task if sample.task == name]
        told = [(s.loss, s.tokens) for s in rows if s.loss is not None and s.tokens is not None]
        scores[f"task/{name}/loss"] = _per_token([loss for loss, _ in told], [n for _, n in told]) if told else None
        scores[f"task/{name}/accuracy"] = _share([s.correct for s in rows])
    return {key: score for key, score in scores.items() if score is not None}


def compare_to_base(
    after: Measurement, before: Measurement, full: Measurement | None = None, *, bootstrap: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """What a fine-tuned model kept of its base and gained on the task.

    Args:
        after: of the fine-tuned model.
        before: of its base, same questions.
        full: of the full fine-tuning that T is measured against, same questions; None if there is none.
        bootstrap: number of paired resamples of the questions.
        seed: of the resampling.

    Returns:
        Each measure {"value", "low", "high"} (95 %) or None: K, K_clipped, T, KT, K_p, choice_kept, T_l, KT_l;
        `ratios`: accuracy after over before per set; `knowledge_log_prob`: change in nats per gold token per set;
        `undefined`: {measure: why it, or its interval, is missing}.

    Raises:
        DataError: if the models were not asked the same questions.
    """
    models = {"before": before, "after": after} | ({} if full is None else {"full": full})
    panel = Panel(models, bootstrap=bootstrap, seed=seed)
    named: dict[str, Statistic] = {name: measure(panel, name, "after") for name in MEASURES}
    named |= {f"ratios/{s}": _ratio(panel, s, "after") for s in panel.sets if panel.has(f"knowledge/{s}/accuracy")}
    named |= {f"knowledge_log_prob/{s}": log_prob_change(panel, s, "after") for s in panel.sets}
    compared: dict[str, Any] = {"ratios": {}, "knowledge_log_prob": {}, "undefined": {}}
    for name, statistic in named.items():
        estimate, reason = panel.estimate(statistic)
        group, _, chosen = name.partition("/")
        if chosen:
            compared[group][chosen] = estimate
        else:
            compared[group] = estimate
        if reason is not None:
            compared["undefined"][name] = reason
    return compared


def compare_runs(
    runs: Mapping[str, Measurement],
    base: Measurement,
    full: Measurement | None = None,
    *,
    bootstrap: int = 2000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """How much more each run kept and gained than each other one, question by question.

    Args:
        runs: measurements of fine-tuned models by name.
        base: of their base, same questions.
        full: of the full fine-tuning that T is measured against; None if there is none.
        bootstrap: number of paired resamples of the questions.
        seed: of the resampling.

    Returns:
        Per pair, in the order of `runs`, one {"a", "b", "measure", "value", "low", "high"} per measure of `COMPARED`
        that both have: the difference a - b with its 95 % interval over paired resamples. Each interval stands alone:
        it is not corrected for the number of pairs, and knows nothing of other seeds.

    Raises:
        DataError: if the models were not asked the same questions.
    """
    panel = Panel(panel_models(runs, base, full), bootstrap=bootstrap, seed=seed)
    found: dict[tuple[str, str], tuple[float, Any]] = {}
    for run, name in itertools.product(runs, COMPARED):
        statistic = measure(panel, name, run_column(run))
        try:
            found[run, name] = panel.value(statistic), panel.replicates(statistic)
        except (Undefined, NumericalError):
            continue  # compare_to_base says why
    rows = []
    for (a, b), name in itertools.product(itertools.combinations(runs, 2), COMPARED):
        if (a, name) in found and (b, name) in found:
            (value, drawn), (other, other_drawn) = found[a, name], found[b, name]
            rows.append({"a": a, "b": b, "measure": name, **panel.interval(value - other, drawn - other_drawn)[0]})
    return rows


def panel_models(
    runs: Mapping[str, Measurement], base: Measurement, full: Measurement | None
) -> dict[str, Measurement]:
    """Base, reference and runs under the names of one panel, that of a run being `run_column`."""
    named = {"before": base} | ({} if full is None else {"full": full})
    return named | {run_column(run): measured for run, measured in runs.items()}


def run_column(run: str) -> str:
    """The name of a run in a panel, which no name of a run can confuse with the base or the reference."""
    return f"run {run}"


def measure(panel: Panel, name: str, model: str) -> Statistic:
    """The statistic of a measure of `MEASURES` for one model of the panel, against its "before" and "full"."""
    return lambda average: MEASURES[name](panel, model, average)


def log_prob_change(panel: Panel, chosen: str, model: str) -> Statistic:
    """Change of the mean log probability per gold answer token of one set, in nats."""
    group = f"knowledge/{chosen}"

    def statistic(average: Average) -> Any:
        change = panel.column(group, "total", model) - panel.column(group, "total", "before")
        return average(group, change) / average(group, panel.column(group, "tokens", model))

    return statistic


def task_loss(panel: Panel, task: str, model: str) -> Statistic:
    """Nats per response token of one task."""
    group = f"task/{task}"
    return lambda average: (
        average(group, panel.column(group, "loss", model)) / average(group, panel.column(group, "tokens", model))
    )


def _ratio(panel: Panel, chosen: str, model: str) -> Statistic:
    group = f"knowledge/{chosen}/accuracy"
    return lambda average: ratios(
        {chosen: average(group, panel.column(group, "right", model))},
        {chosen: average(group, panel.column(group, "right", "before"))},
    )[chosen]


def _right(panel: Panel, groups: Sequence[str], model: str, average: Average) -> dict[str, Any]:
    if not groups:
        raise Undefined("no such questions were measured")
    return {group: average(group, panel.column(group, "right", model)) for group in groups}


def _knowledge(
    panel: Panel, model: str, average: Average, formula: Any = knowledge_kept, kind: str = "accuracy"
) -> Any:
    groups = [f"knowledge/{chosen}/{kind}" for chosen in panel.sets]
    if kind == "choice":  # sets without distractors have no choices to keep
        groups = [group for group in groups if panel.has(group)]
    return formula(_right(panel, groups, model, average), _right(panel, groups, "before", average))


def _task(panel: Panel, model: str, average: Average) -> Any:
    groups = [f"task/{task}/accuracy" for task in panel.answered or panel.tasks]
    return task_gained(_right(panel, groups, model, average), _right(panel, groups, "full", average))


def _probability(panel: Panel, model: str, average: Average) -> Any:
    if not panel.sets:
        raise Undefined("no knowledge was measured")
    kept = [np.exp(log_prob_change(panel, chosen, model)(average)) for chosen in panel.sets]
    return sum(kept) / len(kept)


def _task_share(panel: Panel, model: str, average: Average) -> Any:
    if not panel.tasks:
        raise Undefined("no task was measured")
    if "full" not in panel.models:
        raise Undefined("there is no full fine-tuning to compare with")
    tasks = panel.likely or panel.tasks
    losses = [[task_loss(panel, task, name)(average) for name in ("before", model, "full")] for task in tasks]
    shares = [task_share_gained(*found) for found in losses]
    return sum(shares) / len(shares)


MEASURES: dict[str, Any] = {
    "K": _knowledge,
    "K_clipped": lambda panel, model, average: _knowledge(panel, model, average, knowledge_kept_clipped),
    "T": _task,
    "KT": lambda panel, model, average: harmonic(_knowledge(panel, model, average), _task(panel, model, average)),
    "K_p": _probability,
    "choice_kept": lambda panel, model, average: _knowledge(panel, model, average, kind="choice"),
    "T_l": _task_share,
    "KT_l": lambda panel, model, average: harmonic(
        _probability(panel, model, average), _task_share(panel, model, average)
    ),
}


def _share(answers: Sequence[bool | None]) -> dict[str, float | int] | None:
    given = [answer for answer in answers if answer is not None]
    if not given:
        return None
    value = sum(given) / len(given)
    return {"value": value, "stderr": math.sqrt(value * (1 - value) / len(given)), "n": len(given)}


def _per_token(totals: Sequence[float], tokens: Sequence[int]) -> dict[str, float | int]:
    sums, sizes = np.asarray(totals, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    value, n = float(sums.sum() / sizes.sum()), len(sums)
    residual = sums - value * sizes
    variance = float((residual**2).sum() / max(n - 1, 1))
    return {"value": value, "stderr": math.sqrt(variance / n) / float(sizes.mean()), "n": n}
