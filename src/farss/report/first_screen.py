"""The first screen: every method once in the plane of kept against gained, and its key."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from farss.report.differences import contestants, estimate_of, label_of
from farss.report.figures.plane import PlanePoint, fence, plane
from farss.report.numbers import Estimate, cell, decimal, estimate
from farss.report.runs import Run
from farss.report.tables import marked_name

WIDE, NARROW = (700.0, 500.0), (358.0, 380.0)
MOST_NAMED_NARROW = 8
"""On narrow paper more methods than this are named without their learning rates, which the key has."""


@dataclass(frozen=True)
class Axis:
    """One axis of the plane: a measure of `compared`, or the fall of the task's loss, in which case `key` is `LOSS`."""

    key: str
    label: str
    short: str


LOSS = "task loss"
KEPT_P = Axis("K_p", "↑ probability kept, K_p", "kept, K_p")
KEPT = Axis("K", "↑ knowledge accuracy, after ÷ before, K", "ratio, K")
SHARE = Axis("T_l", "task share gained, T_l →", "gained, T_l")
TASK = Axis("T", "task accuracy ÷ full fine-tuning’s, T →", "gained, T")
FALL = Axis(LOSS, "fall of the task’s loss, nats per token →", "loss falls by")
PLANES = ((SHARE, KEPT_P), (TASK, KEPT), (FALL, KEPT_P), (FALL, KEPT))
"""The planes there may be; the first one is drawn in which any method has a place."""


def first_screen(report: dict[str, Any], runs: list[Run]) -> dict[str, Any] | None:
    """What the first screen shows beside its sentence; None where nothing was both kept and gained.

    Args:
        report: the content of report.json.
        runs: its runs, from `catalogue`.

    Returns:
        {"figure": for wide and narrow pages, "key": rows {"name", "kept", "gained"} of all methods,
        best first, "heads": of the key's columns, "outside": labels of the methods drawn at the edge, "levels": whether
        curves of equal harmonic mean are drawn}.
    """
    methods = contestants(report, runs)
    for across, up in PLANES:
        places = [(r, _of(report, r, across), _of(report, r, up)) for r in methods]
        if any(a and b for _, a, b in places):
            return _screen(report, places, across, up)
    return None


def _of(report: dict[str, Any], run: Run, axis: Axis) -> Estimate | None:
    return _fall(report, run) if axis.key == LOSS else estimate_of(report, run, axis.key)


def _fall(report: dict[str, Any], run: Run) -> Estimate | None:
    """By how much the loss on the task fell, in nats per token, the mean over tasks; without an interval."""
    base = (report.get("base") or {}).get("scores") or {}
    pairs = [(estimate(base[k]), estimate(run.score(k))) for k in base if k.startswith("task/") and k.endswith("/loss")]
    falls = [before.value - after.value for before, after in pairs if before and after]
    return Estimate(sum(falls) / len(falls)) if falls else None


def _screen(
    report: dict[str, Any], places: list[tuple[Run, Estimate | None, Estimate | None]], across: Axis, up: Axis
) -> dict[str, Any]:
    drawn = [(run, a, b, label_of(report, run)) for run, a, b in places if a and b]
    limits = fence([a.value for _, a, _, _ in drawn]), fence([b.value for _, _, b, _ in drawn])
    key = [
        {
            "name": marked_name(run.plain, label_of(report, run)),
            "kept": cell(Estimate(b.value) if b else None, 2),
            "gained": cell(Estimate(a.value) if a else None, 2),
        }
        for run, a, b in places
    ]
    levels = across.key != LOSS
    outside = [
        label
        for _, a, b, label in drawn
        if not (limits[0][0] <= a.value <= limits[0][1] and limits[1][0] <= b.value <= limits[1][1])
    ]
    points = [PlanePoint(run.plain, a, b, _note(label, across, a, up, b), label) for run, a, b, label in drawn]
    return {
        "figure": _figure(points, across, up, levels),
        "key": key,
        "heads": (up.short, across.short),
        "outside": outside,
        "levels": levels,
    }


def _note(label: str, across: Axis, a: Estimate, up: Axis, b: Estimate) -> str:
    return f"{label}: {up.short.rpartition(', ')[2]} {_spoken(b)}, {across.short.rpartition(', ')[2]} {_spoken(a)}"


def _spoken(found: Estimate) -> str:
    if found.low is None or found.high is None:
        return decimal(found.value)
    return f"{decimal(found.value)} [{decimal(found.low)}, {decimal(found.high)}]"


def _figure(points: list[PlanePoint], across: Axis, up: Axis, levels: bool) -> Markup:
    description = f"{len(points)} methods. " + "; ".join(p.tip for p in points) + "."
    drawn = []
    for (width, height), class_ in ((WIDE, "wide"), (NARROW, "narrow")):
        short = class_ == "narrow" and len(points) > MOST_NAMED_NARROW
        named = [replace(p, label=p.label.partition(" · ")[0]) for p in points] if short else points
        drawing = plane(
            named,
            width=width,
            height=height,
            x_label=across.label,
            y_label=up.label,
            title="Every method, kept against gained",
            description=description,
            base="either",
            levels=levels,
            class_=class_,
        )
        drawn.append(drawing)
    return Markup("").join(drawn)
