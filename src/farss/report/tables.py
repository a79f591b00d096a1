"""The tables of one report as rows of finished cells."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from farss.amounts import duration, size
from farss.report.figures.axes import span
from farss.report.figures.marks import Style, swatch
from farss.report.figures.plane import fence
from farss.report.figures.strips import interval_strip
from farss.report.numbers import (
    Estimate,
    cell,
    count,
    decimal,
    estimate,
    finite,
    rate,
    ratio,
    share,
    shown,
    signed,
)
from farss.report.runs import RANKING, Run, ranked, ranking_measure, reference, representatives, with_rate
from farss.report.sets import score_key, sets_of

SUMMARY_MEASURES = ("K_p", "T_l", "KT_l", "choice_kept")
PAPER_MEASURES = ("K", "K_clipped", "T", "KT")
NARROW_MEASURES = ("K_p", "T_l", "KT_l")
"""The measures that narrow paper has room for."""
FORMULA_NAMES = {
    "K_p": "K<sub>p</sub>",
    "T_l": "T<sub>l</sub>",
    "KT_l": "KT<sub>l</sub>",
    "K_clipped": "K clipped",
    "choice_kept": "ratio of choices",
    "frontier_area": "frontier area",
}
MOST_PAIRS = 21
FACTS_FIRST, FACTS_MOST = 3, 60
MOST_UNDEFINED = 8
ANSWER_FORMAT = re.compile(r"^Q: |\s*\bA:\s*$")  # the few-shot form around a question, tedious to read
STRIP_WIDTH = 88.0


def measure_name(key: str) -> Markup:
    """A measure's name with its index set low."""
    return Markup(FORMULA_NAMES[key]) if key in FORMULA_NAMES else escape(key)


def run_name(run: Run, *, whole: bool = True) -> Markup:
    """A run's marker and name, for the first cell of a row."""
    return marked_name(run.plain, run.name if whole else run.method_label)


def marked_name(style: Style, name: str) -> Markup:
    """A marker and a name, whose parts (method, learning rate, seed) are not broken over lines."""
    parts = Markup(" · ").join(Markup('<span class="part">{}</span>').format(part) for part in name.split(" · "))
    return Markup('<span class="run">{}<span>{}</span></span>').format(Markup(swatch(style)), parts)


def summary_rows(runs: list[Run]) -> dict[str, Any]:
    """The summary: rows in ranking order, the strip's axis, and which columns have anything to show."""
    key = ranking_measure(runs)
    order = ranked(runs)
    estimates = {r.id: r.measure(key) for r in runs} if key else {}
    known = [e for e in estimates.values() if e]
    low, high = fence([e.value for e in known]) if known else (0.0, 1.0)
    axis, best = (
        _axis([e for e in known if low <= e.value <= high]),
        next((e for r in order if (e := estimates.get(r.id))), None),
    )
    yardstick = reference(runs)
    seeds = len({r.record.get("seed") for r in runs}) > 1
    rows = []
    for run in order:
        found = estimates.get(run.id)
        title = f"{run.name}: {key} {decimal(found.value)}" if found else ""
        strip = {"title": title, "style": run.plain, "band": best, "width": STRIP_WIDTH}
        rows.append(
            {
                "name": marked_name(run.plain, with_rate(run.method_label, run.rate)),
                "under": _under(run, seeds, yardstick),
                "strip": interval_strip(found, axis, **strip) if found else "",
                "cells": {m: cell(run.measure(m), why=_why(run, m)) for m in SUMMARY_MEASURES + PAPER_MEASURES},
                "area": cell(estimate(run.record.get("frontier_area"))),
                "params": shown(run.record.get("trainable_params"), count),
                "share": shown(run.record.get("trained_share"), share),
            }
        )
    return {
        "rows": rows,
        "key": key,
        "axis": [decimal(v, 2) for v in axis],
        "likelihood": [m for m in SUMMARY_MEASURES if any(r.measure(m) for r in runs)],
        "paper": [m for m in PAPER_MEASURES if any(r.measure(m) for r in runs)],
        "area": any(estimate(r.record.get("frontier_area")) for r in runs),
        "undefined": _undefined(runs),
    }


def _under(run: Run, seeds: bool, yardstick: Run | None) -> str:
    """What stands below a name in the summary: the seed, where there are several, and whether T is relative to it."""
    seed = [f"seed {run.record['seed']}"] if seeds and run.record.get("seed") is not None else []
    return " · ".join([*seed, *(["reference"] if yardstick is not None and run.id == yardstick.id else [])])


def _why(run: Run, measure: str) -> str:
    reasons = (run.record.get("compared") or {}).get("undefined") or {}
    return str(reasons.get(measure, "not measured"))


def _undefined(runs: list[Run]) -> list[tuple[Markup, str]]:
    """Why measures, or their intervals, are missing: each reason once, with the measures it concerns."""
    reasons: dict[str, list[str]] = {}
    for run in runs:
        for measure, reason in ((run.record.get("compared") or {}).get("undefined") or {}).items():
            known = reasons.setdefault(str(reason), [])
            if measure not in known:
                known.append(measure)
    names = [(Markup(", ").join(measure_name(m) for m in found), reason) for reason, found in reasons.items()]
    return names[:MOST_UNDEFINED]


def _axis(estimates: Sequence[Estimate], include: tuple[float, ...] = ()) -> tuple[float, float]:
    return span([*include, *(min(max(v, -1.0), 2.0) for e in estimates for v in e.ends())])


def score_table(report: dict[str, Any], runs: list[Run]) -> dict[str, Any]:
    """Raw scores of the base and every run, one column per score key, and the ratios to the base per set."""
    base = (report.get("base") or {}).get("scores") or {}
    keys = list(dict.fromkeys([*base, *(k for r in runs for k in r.record.get("scores") or {})]))
    rows = [{"name": "base", "cells": [_score(base.get(k)) for k in keys]}]
    rows += [{"name": run_name(r), "cells": [_score(r.score(k)) for k in keys]} for r in runs]
    labels = sets_of(report)
    return {"heads": [_score_head(k, labels) for k in keys], "rows": rows if keys else []}


def _score_head(key: str, labels: Mapping[str, str]) -> Markup:
    _, subject, what = score_key(key)
    said = {"log_prob": "log-prob.", "loss": "loss, nats/token", "choice": "choice acc.", "hit": "greedy hit"}
    return Markup("{}<br><small>{}</small>").format(labels.get(subject, subject), said.get(what, what))


def _score(raw: Any) -> Markup:
    found = estimate(raw)
    if found is None:
        return cell(None)
    error = finite(raw.get("stderr")) if isinstance(raw, dict) else None
    spread = Markup(' <span class="ci">±\u2009{}</span>').format(shown(error, decimal)) if error is not None else ""
    return cell(Estimate(found.value)) + spread


def set_table(report: dict[str, Any], runs: list[Run]) -> dict[str, Any]:
    """Per knowledge set and run: the ratio of accuracies and the change of the right answer's log-probability."""
    compared = {r.id: r.record.get("compared") or {} for r in runs}
    kinds = ("ratios", "knowledge_log_prob")
    sets = list(dict.fromkeys(chosen for c in compared.values() for k in kinds for chosen in c.get(k) or {}))
    rows = [
        {
            "name": run_name(r),
            "cells": [
                (
                    cell(estimate((compared[r.id].get("ratios") or {}).get(s))),
                    cell(estimate((compared[r.id].get("knowledge_log_prob") or {}).get(s)), sign=True),
                )
                for s in sets
            ],
        }
        for r in runs
    ]
    labels = sets_of(report)
    return {"sets": [labels.get(s, s) for s in sets], "rows": rows if sets else []}


TRIAL_MEASURES = ("K_p", "T_l", "KT_l")


def trial_rows(runs: list[Run]) -> list[dict[str, Any]]:
    """Every trial with the loss it was judged by, the chosen ones marked; empty where nothing was chosen so."""
    if all(run.validation_loss is None for run in runs):
        return []
    return [
        {
            "name": run_name(run, whole=False),
            "rate": shown(run.rate, rate),
            "seed": run.record.get("seed"),
            "loss": cell(estimate(run.record.get("validation_loss"))),
            "selected": run.selected,
            "cells": [cell(run.measure(m), why=_why(run, m)) for m in TRIAL_MEASURES],
        }
        for run in runs
    ]


def cost_rows(runs: list[Run]) -> list[dict[str, Any]]:
    """What every run cost, in the report's order; `budget` where any run's ranks were solved for one."""
    writers = {
        "trainable_params": count,
        "trained_share": share,
        "init_seconds": duration,
        "init_peak_bytes": size,
        "train_seconds": duration,
        "train_tokens_per_second": count,
        "train_speed_to_lora": ratio,
        "train_peak_bytes": size,
        "eval_seconds": duration,
    }
    budgets = any(r.record.get("budget") for r in runs)
    return [
        {
            "name": run_name(r),
            "budget": _budget(r) if budgets else None,
            "cells": [shown(r.record.get(k), w) for k, w in writers.items()],
        }
        for r in runs
    ]


def _budget(run: Run) -> Markup:
    """The trainable parameters asked for and by how much they were missed."""
    budget = run.record.get("budget") or {}
    missed = run.missed
    if missed is None:
        return cell(None)
    by = f"{signed(100 * missed, 1)}\u00a0%"
    return Markup('{} <span class="ci">missed by {}</span>').format(shown(budget.get("requested"), count), by)


def comparison_groups(report: dict[str, Any], runs: list[Run]) -> list[dict[str, Any]]:
    """Paired differences by measure, those between the methods' best runs first.

    Returns:
        [{"measure", "first": rows, "rest": rows, "total", "apart"}], rows as {"a", "b", "value", "strip", "apart"}.
    """
    by_id = {r.id: r for r in runs}
    entries = [
        (e["measure"], e["a"], e["b"], found)
        for e in report.get("comparisons") or []
        if (found := estimate(e)) and e.get("a") in by_id and e.get("b") in by_id
    ]
    measures = list(dict.fromkeys(measure for measure, *_ in entries))
    measures.sort(key=lambda m: RANKING.index(m) if m in RANKING else len(RANKING))
    best = [r.id for r in representatives(runs)]
    order = {r.id: i for i, r in enumerate(ranked(runs))}
    groups = []
    for measure in measures:
        pairs = [_best_first(a, b, found, order) for m, a, b, found in entries if m == measure]
        pairs.sort(key=lambda p: (not (p[0] in best and p[1] in best), order[p[0]], order[p[1]]))
        between_best = sum(a in best and b in best for a, b, _ in pairs)
        cut = min(between_best or MOST_PAIRS, MOST_PAIRS) if len(pairs) > MOST_PAIRS else len(pairs)
        apart = sum(found.excludes_zero for _, _, found in pairs)
        parts = {}
        for name, part in (("first", pairs[:cut]), ("rest", pairs[cut:])):
            axis = _axis([found for _, _, found in part], include=(0.0,))
            parts[name] = [_comparison(by_id[a], by_id[b], found, measure, axis) for a, b, found in part]
        groups.append({"measure": measure, **parts, "total": len(pairs), "apart": apart})
    return groups


def _best_first(a: str, b: str, found: Estimate, order: dict[str, int]) -> tuple[str, str, Estimate]:
    return (a, b, found) if order[a] <= order[b] else (b, a, -found)


def _comparison(a: Run, b: Run, found: Estimate, measure: str, axis: tuple[float, float]) -> dict[str, Any]:
    title = f"{a.name} − {b.name}, {measure}: {decimal(found.value)}"
    return {
        "a": run_name(a),
        "b": run_name(b),
        "value": cell(found, sign=True),
        "strip": interval_strip(found, axis, title=title, style=a.plain, marks=(0.0,), strong=found.excludes_zero),
        "apart": found.excludes_zero,
    }


def fact_groups(report: dict[str, Any], runs: list[Run]) -> list[dict[str, Any]]:
    """Facts lost and gained per run, in ranking order, with the widths of the counts' bars in percent."""
    chosen, labels = [r for r in ranked(runs) if r.record.get("facts")], sets_of(report)
    groups = []
    for run in chosen:
        facts = run.record["facts"]
        lost, gained = facts.get("lost") or [], facts.get("gained") or []
        counts = {
            "lost_count": _count_or(facts.get("lost_count"), len(lost)),
            "gained_count": _count_or(facts.get("gained_count"), len(gained)),
        }
        lists = [
            fact_list(lost, "lost", counts["lost_count"], labels),
            fact_list(gained, "gained", counts["gained_count"], labels),
        ]
        groups.append({"name": run_name(run), "colour": run.style.class_, **counts, "lists": lists})
    largest = max((max(g["lost_count"], g["gained_count"]) for g in groups), default=0) or 1
    for group in groups:
        group["lost_bar"] = f"{100 * group['lost_count'] / largest:.1f}"
        group["gained_bar"] = f"{100 * group['gained_count'] / largest:.1f}"
    return groups


def _count_or(raw: Any, otherwise: int) -> int:
    found = finite(raw)
    return otherwise if found is None else int(found)


def fact_list(facts: list[dict[str, Any]], what: str, counted: int, labels: Mapping[str, str]) -> dict[str, Any]:
    """The facts lost or gained that a page lists, those shown at once apart, and how many are left out.

    Args:
        facts: entries of the report, the largest change first.
        what: "lost" or "gained".
        counted: how many there were, listed or not.
        labels: of the sets they are of.
    """
    rows = [
        {
            **{k: f.get(k) for k in ("gold", "before", "after")},
            "set": labels.get(str(f.get("set")), f.get("set")),
            "question": ANSWER_FORMAT.sub("", str(f.get("question") or "")),
            "change": cell(estimate(f.get("log_prob_change")), 2, sign=True),
        }
        for f in facts[:FACTS_MOST]
    ]
    left_out = {"unshown": len(facts) - len(rows), "unlisted": max(counted - len(facts), 0)}
    return {"what": what, "first": rows[:FACTS_FIRST], "rest": rows[FACTS_FIRST:], **left_out}
