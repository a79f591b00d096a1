"""The page of an audit: what a fine-tuning kept of its base model, and what it lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from farss.report.html import asset, environment
from farss.report.numbers import cell, decimal, estimate, signed, tagged, with_indices
from farss.report.tables import fact_list
from farss.storage import write_atomically

TEMPLATE = "audit.html.jinja"
PAGE = "audit.html"
MEASURES = {
    "K": ("knowledge kept, K", "right answers after ÷ before, averaged over the sets (the paper’s measure)"),
    "K_p": ("probability kept, K_p", "probability of the right answers’ tokens after ÷ before, geometric mean"),
    "choice_kept": ("choice kept", "share of right answers likelier than every distractor, after ÷ before"),
}
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
    text = (
        environment()
        .get_template(TEMPLATE)
        .render(
            report=report,
            style=Markup(asset("report.css")),  # ours, not the report's
            headline=headline(report),
            measures=[_measure(report, name) for name in MEASURES],
            sets=_sets(report),
            texts=_texts(report),
            relations=[_relation(row) for row in report["relations"]],
            lists=[
                fact_list(report["facts"][what], what, report["facts"][f"{what}_count"]) for what in ("lost", "gained")
            ],
        )
    )
    return text.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate in a model's words cannot be written


def headline(report: dict[str, Any]) -> str:
    """One sentence: how much was kept, and of how many facts some were lost."""
    facts = report["facts"]
    asked = sum(row["n"] for row in report["relations"])
    moved = f"{facts['lost_count']} of {asked} facts lost, {facts['gained_count']} gained"
    for name, what in (("K", "of the facts that"), ("K_p", "of the probability of what")):
        kept = estimate(report["compared"].get(name))
        if kept is not None:
            return f"{report['subject']} keeps {100 * kept.value:.0f} % {what} {report['base']} knows: {moved}"
    return f"{report['subject']}: {moved}"


def _measure(report: dict[str, Any], name: str) -> dict[str, Any]:
    title, meaning = MEASURES[name]
    why = report["compared"].get("undefined", {}).get(name, "not measured")
    return {
        "title": with_indices(title),
        "meaning": meaning,
        "value": cell(estimate(report["compared"].get(name)), why=why),
    }


def _sets(report: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name, test in report["facts"]["mcnemar"].items():
        scores = {when: report["scores"][when].get(f"knowledge/{name}/accuracy") for when in ("before", "after")}
        rows.append(
            {
                "name": name,
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
