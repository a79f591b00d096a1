"""The page of an inspection: one self-contained HTML file in the style of the report."""

from __future__ import annotations

import re
from typing import Any

import yaml
from markupsafe import Markup

from farss.amounts import duration, size
from farss.report.findings import markup, plain
from farss.report.html import asset, environment
from farss.report.inspection import drawings, words
from farss.report.numbers import cell, count, decimal, share, shown

TEMPLATE = "inspect.html.jinja"
PARTS = {"statistics": "pass over the data", "decomposition": "decompositions", "scoring": "scores"}
WAYS = {"resident": "model in memory", "streamed": "block by block"}
ENGINES = {"inspect": "this inspection"} | {engine: f"farss init, {way}" for engine, way in WAYS.items()}
MEMORY = ("weights", "moments", "activations", "decomposition", "states", "peak")


def render(report: dict[str, Any]) -> str:
    """The page of one inspection: everything inline, no network needed, readable without scripts.

    Args:
        report: the content of inspect.json.

    Returns:
        A complete HTML document; all text of the report is escaped.
    """
    headline = words.headline(report)
    return (
        environment()
        .get_template(TEMPLATE)
        .render(
            report=report,
            created=str(report["created"]).partition("T")[0],
            style=Markup(asset("report.css")) + Markup(asset("inspect.css")),
            script=Markup(asset("report.js")),
            headline=markup(headline),
            headline_text=plain(headline),
            facts=[(name, markup(value)) for name, value in words.facts(report)],
            boundary=[markup(sentence) for sentence in words.boundary_sentences(report)],
            importance=drawings.importance(report),
            energy=drawings.energy(report),
            stability=drawings.stability(report),
            stability_text=markup(words.stability_sentence(report)),
            spectra=drawings.spectra(report),
            held=drawings.held_bars(report),
            layers=_layer_rows(report),
            costs=_cost_rows(report),
            memory=_memory_rows(report),
            times=_time_rows(report),
            carried=shown(report["score_share"], share),
            recipe=yaml.safe_dump(report["recipe"], sort_keys=False, allow_unicode=True).strip(),
        )
    )


def short(value: float) -> str:
    """A number of any size with two digits: 3.1e-7."""
    return re.sub(r"e([-+])0?", lambda sign: "e" + sign.group(1).strip("+"), f"{value:.1e}")


def _layer_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    columns = ("energy_weights", "energy_inputs", "held_share", "overlap", "chance", "above_chance")
    return [
        {
            "layer": shown(row["layer"], count),
            "region": row["region"],
            "importance": shown(row["importance"], short),
            "cells": [shown(row[key], decimal) for key in columns],
        }
        for row in report["layers"]
    ]


def _cost_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": "the plan" if row["rank"] is None else Markup("rank {}").format(shown(row["rank"], count)),
            "cells": [
                shown(row["trainable_params"], count),
                shown(row["share"], share),
                shown(row["adapter_bytes"], size),
                shown(row["exported_bytes"], size),
            ],
        }
        for row in report["costs"]
    ]


def _memory_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for engine, name in ENGINES.items():
        cost = report["predicted"]["memory"][engine] or {}
        measured = report["measured"]["peak_bytes"] if engine == "inspect" else None
        if engine == "inspect":
            used = report["predicted"]["engine"]
            name += f", {WAYS.get(used, used)}"
        rows.append({"name": name, "cells": [*(_size(cost.get(part)) for part in MEMORY), _size(measured)]})
    return rows


def _size(value: Any) -> Markup:
    return cell(None, why="does not apply") if value is None else shown(value, size)


def _time_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    predicted, measured = report["predicted"]["seconds"], report["measured"]["seconds"]
    names = {**PARTS, "total": "in all; measured with loading"}
    return [
        {"name": name, "cells": [shown(predicted[part], duration), shown(measured[part], duration)]}
        for part, name in names.items()
    ]
