"""The tables of what differs: the best method against each other one, and every pair."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from farss.report.differences import Compared, Contrast, compared_methods, contrasts, leader
from farss.report.figures.axes import span
from farss.report.figures.marks import Style
from farss.report.figures.strips import interval_strip
from farss.report.numbers import MISSING, cell, decimal, tagged
from farss.report.runs import Run
from farss.report.tables import marked_name

SMALLEST_SHOWN = 0.001


def difference_section(report: dict[str, Any], runs: list[Run]) -> dict[str, Any] | None:
    """What the section needs, or None where the report compares no methods.

    Returns:
        {"groups": [{"measure", "best", "first": rows, "rest": rows, "total", "apart"}] by measure, rows as {"a", "b",
        "seeds", "value", "strip", "p", "apart"}; "values": rows of every method's own estimates, "measures": their
        columns; "single": labels of the methods with one training; "resamples"; "undefined": (measure, reason)}.
    """
    methods, found = list(compared_methods(report, runs).values()), contrasts(report, runs)
    if not found:
        return None
    return {
        "groups": [_group(measure, pairs, leader(methods, measure)) for measure, pairs in found.items()],
        "measures": list(found),
        "values": [
            {"name": _name(m), "seeds": m.seeds, "cells": [cell(m.measure(measure)) for measure in found]}
            for m in methods
        ],
        "single": [m.label for m in methods if m.seeds == 1],
        "resamples": report["differences"].get("resamples"),
        "undefined": list((report["differences"].get("undefined") or {}).items()),
    }


def _group(measure: str, pairs: list[Contrast], top: Compared | None) -> dict[str, Any]:
    first = [pair if pair.a == top else -pair for pair in pairs if top in (pair.a, pair.b)]
    rest = [pair if pair.found.value >= 0 else -pair for pair in pairs if top not in (pair.a, pair.b)]
    for part in (first, rest):
        part.sort(key=lambda pair: pair.found.value)
    return {
        "measure": measure,
        "best": top.label if top else "",
        "first": _rows(measure, first),
        "rest": _rows(measure, rest),
        "total": len(pairs),
        "apart": sum(pair.found.excludes_zero for pair in pairs),
    }


def _rows(measure: str, pairs: list[Contrast]) -> list[dict[str, Any]]:
    axis = span([0.0, *(min(max(v, -1.0), 2.0) for pair in pairs for v in pair.found.ends())])
    return [
        {
            "a": _name(pair.a),
            "b": _name(pair.b),
            "seeds": f"{pair.a.seeds} / {pair.b.seeds}",
            "value": cell(pair.found, sign=True),
            "strip": interval_strip(
                pair.found,
                axis,
                title=f"{pair.a.label} − {pair.b.label}, {measure}: {decimal(pair.found.value)}",
                style=pair.a.style,
                marks=(0.0,),
                strong=pair.found.excludes_zero,
            ),
            "p": MISSING if pair.p is None else tagged(pair.p, p_value(pair.p)),
            "apart": pair.found.excludes_zero,
        }
        for pair in pairs
    ]


def _name(method: Compared) -> Markup:
    return marked_name(Style(method.style.class_, method.style.shape), method.label)


def p_value(p: float) -> str:
    """A p-value with three decimals, or that it is smaller."""
    return f"< {SMALLEST_SHOWN:g}" if p < SMALLEST_SHOWN else decimal(p, 3)
