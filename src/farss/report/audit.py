"""The page of an audit: what a fine-tuning kept of its base model, and what it lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from farss.report.html import asset, environment
from farss.report.numbers import cell, decimal, estimate, percent, signed, tagged, with_indices
from farss.report.sets import set_labels
from farss.report.tables import fact_list
from farss.storage import write_atomically

TEMPLATE = "audit.html.jinja"
PAGE = "audit.html"
MEASURES = {
    "K": (
        "ratio of accuracies, K",
        "right answers after ÷ before, averaged over the sets (the paper’s measure); new ones count too",
    ),
    "K_p": ("ratio of probabilities, K_p", "probability of the right answers’ tokens after ÷ before, geometric mean"),
    "choice_kept": ("ratio of choices", "share of right answers likelier than every distractor, after ÷ before"),
}
WORST_SHOWN = 5
CHANCE = 0.05
"""Below this p-value a change is called more than chance."""


def write_audit(report: dict[str, Any], folder: str | Path) -> Path:
    """Write `audit.html` into `folder`, atomically.

    Args:
        report: the content of audit.json.
        folder: an existing folder.

    Raises:
        StorageError: if it cannot be written.
    """
    page, text = Path(folder) / PAGE, render_audit(report)
    write_atomically(page, lambda file: file.write_text(text, encoding="utf-8"))
    return page


def render_audit(report: dict[str, Any]) -> str:
    """The page as one self-contained HTML document; all text of the report is escaped."""
    labels = _labels(report)
    text = (
        environment()
        .get_template(TEMPLATE)
        .render(
            report=report,
            style=Markup(asset("report.css")),  # ours, not the report's
            headline=headline(report),
            measures=[*filter(None, [_facts_kept(report)]), *(_measure(report, name) for name in MEASURES)],
            gate=_gate(report),
            sets=_sets(report),
            texts=_texts(report),
            relations=[_relation(row) | {"set": labels[row["set"]]} for row in report["relations"]],
            lists=[
                fact_list(report["facts"][what], what, report["facts"][f"{what}_count"], labels)
                for what in ("lost", "gained")
            ],
        )
    )
    return text.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate in a model's words cannot be written


def headline(report: dict[str, Any]) -> str:
    """One sentence: how many of the facts that the base knows are kept, and, told apart, how many are new."""
    facts, subject, base = report["facts"], report["subject"], report["base"]
    lost, gained, known = facts["lost_count"], facts["gained_count"], facts.get("known_count")
    asked = sum(row["n"] for row in report["relations"])
    if known is None:  # an account of an earlier version, which did not count them
        kept = estimate(report["compared"].get("K"))
        ratio = f"; the ratio of accuracies K is {decimal(kept.value)}" if kept else ""
        return f"{subject}: {lost} facts lost and {gained} gained of {asked} asked{ratio}"
    if known == 0:
        return f"{base} knows none of the {asked} facts asked for, so that none can be lost; {subject} gained {gained}"
    others = f"; of the {asked - known} that {base} does not know, {gained} gained" if asked > known else ""
    return (
        f"{subject} keeps {known - lost} of the {known} facts that {base} knows"
        f" ({share_kept(known - lost, known)} %): {lost} lost{others}"
    )


def share_kept(kept: int, known: int) -> str:
    """A percentage that is 100 only where all are kept, and 0 only where none is."""
    places = 0
    while kept not in (0, known) and percent(kept / known, places) in (percent(1.0, places), percent(0.0, places)):
        places += 1
    return percent(kept / known, places)


def interval_text(found: dict[str, Any], why: str | None) -> str:
    """A measure on one line of text: its value and interval, or why one of them is missing."""
    if found["value"] is None:
        return f"no value: {why}" if why else "no value"
    if found["low"] is None or found["high"] is None:
        reason = (why or "").removeprefix("no interval: ")
        return f"{found['value']:.3f} (no interval{': ' + reason if reason else ''})"
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def lines(report: dict[str, Any]) -> list[str]:
    """The result for a terminal: the headline, the measures, and the kinds of fact that lost most."""
    undefined = report["compared"].get("undefined", {})
    found = {name: report["compared"].get(name) for name in MEASURES}
    measured = [f"{name:<12} {interval_text(f, undefined.get(name))}" for name, f in found.items() if f is not None]
    if kept := report["facts"].get("kept"):
        measured.insert(0, f"{'facts kept':<12} {interval_text(kept, None)}")
    worst = [row for row in report["relations"] if row["lost"] > row["gained"]][:WORST_SHOWN]
    labels = _labels(report)
    kinds = [
        f"lost {row['lost']}, gained {row['gained']} of {row['n']}: {row['relation']} ({labels[row['set']]})"
        for row in worst
    ]
    return [headline(report), *measured, *kinds]


def _labels(report: dict[str, Any]) -> dict[str, str]:
    return set_labels([*report["facts"]["mcnemar"], *(row["set"] for row in report["relations"])])


def _measure(report: dict[str, Any], name: str) -> dict[str, Any]:
    title, meaning = MEASURES[name]
    why = report["compared"].get("undefined", {}).get(name)
    found = estimate(report["compared"].get(name))
    return {
        "title": with_indices(title),
        "meaning": meaning,
        "value": cell(found, why=why or "not measured"),
        "why": why if found is None or not found.has_interval else None,
    }


def _facts_kept(report: dict[str, Any]) -> dict[str, Any] | None:
    """Kept of known, the first row of the measures; None where the base knew none, or the account does not say."""
    kept = estimate(report["facts"].get("kept"))
    meaning = "of the facts that the base knows, those that the fine-tuned model still knows; new ones do not count"
    return None if kept is None else {"title": "facts kept", "meaning": meaning, "value": cell(kept), "why": None}


def _gate(report: dict[str, Any]) -> dict[str, str] | None:
    """What the page says of the gate: the verdict, and the figures it rests on."""
    gate = report.get("gate")
    if gate is None:
        return None
    verdict = {True: "met", False: "not met", None: "cannot be judged"}[gate["met"]]
    measured = interval_text(gate, gate.get("why"))
    return {"verdict": verdict, "text": f"{gate['measure']} is {measured}; at least {gate['least']:g} was asked for."}


def _sets(report: dict[str, Any]) -> list[dict[str, Any]]:
    rows, counts, labels = [], report["facts"].get("counts", {}), _labels(report)
    for name, test in report["facts"]["mcnemar"].items():
        scores = {when: report["scores"][when].get(f"knowledge/{name}/accuracy") for when in ("before", "after")}
        rows.append(
            {
                "name": labels[name],
                "known": counts.get(name, {}).get("known"),
                "kept": counts.get(name, {}).get("kept"),
                "n": scores["before"]["n"] if scores["before"] else None,
                "before": _share(scores["before"]),
                "after": _share(scores["after"]),
                "ratio": cell(estimate(report["compared"]["ratios"].get(name))),
                "change": cell(estimate(report["compared"]["knowledge_log_prob"].get(name)), sign=True),
                **test,
                "beyond_chance": test["p"] < CHANCE,
            }
        )
    return rows


def _share(score: dict[str, Any] | None) -> Markup:
    return cell(None) if score is None else tagged(score["value"], f"{100 * score['value']:.1f} %")


def _texts(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Loss on general text before and after, in nats per token."""
    rows = []
    for key, before in report["scores"]["before"].items():
        kind, _, rest = key.partition("/")
        if kind == "task" and rest.endswith("/loss"):
            after = report["scores"]["after"][key]
            rows.append(
                {
                    "name": rest.removesuffix("/loss"),
                    "before": tagged(before["value"], decimal(before["value"], 3)),
                    "after": tagged(after["value"], decimal(after["value"], 3)),
                    "change": tagged(after["value"] - before["value"], signed(after["value"] - before["value"], 3)),
                }
            )
    return rows


def _relation(row: dict[str, Any]) -> dict[str, Any]:
    largest = max(row["n"], 1)
    return row | {
        "lost_bar": f"{100 * row['lost'] / largest:.1f}",
        "gained_bar": f"{100 * row['gained'] / largest:.1f}",
        "change": tagged(row["log_prob_change"], signed(row["log_prob_change"], 2)),
        "beyond_chance": row["p"] < CHANCE,
    }
