"""The figures of an inspection: its numbers turned into the plain arguments of the drawing functions."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from farss.report.drawings import importance_map
from farss.report.figures.layers import LayerLine, layer_bars, layer_lines
from farss.report.figures.marks import Style, dash_swatch, swatch
from farss.report.figures.spectra import spectrum_figure
from farss.report.numbers import decimal, finite, share

HALF, NARROW = 490.0, 340.0
LINE_HEIGHT, BAR_HEIGHT, BAR_WIDTH = 260.0, 180.0, 330.0
WHOLE = (0.0, 1.0)
HEADROOM = 1.08

WEIGHTS, INPUTS, AGREED, CHANCE = (
    Style("s2", "circle"),
    Style("s0", "circle"),
    Style("s4", "circle"),
    Style("s8", "circle", fill=1),
)
SELECTED = ("FARSS", Style("s0", "circle"))

Legend = list[tuple[Markup, str]]


def importance(report: dict[str, Any]) -> Markup:
    """Importance over layers and kinds, logarithmic colours; empty if no module has any."""
    return importance_map({"targets": report["targets"], "shallow_layers": report["boundary"]["planned"]})


def energy(report: dict[str, Any]) -> tuple[Markup, Legend]:
    """Share of the five largest squared singular values per layer, of weights and of hidden states (Figure 1)."""
    lines = [
        _line(report, "energy_weights", "weights", WEIGHTS),
        _line(report, "energy_inputs", "hidden states", INPUTS),
    ]
    shown = [line for line in lines if line.points]
    words = {
        "y_label": "share of energy in the top 5",
        "title": "Top-5 energy share per layer",
        "description": "Share of the squared singular values that the five largest hold: "
        + "; ".join(_said(line) for line in shown)
        + ".",
    }
    return _lines(shown, report, **words), [(Markup(swatch(line.style)), line.name) for line in shown]


def stability(report: dict[str, Any]) -> tuple[Markup, Legend]:
    """Share of directions that the plans of the two halves have in common, per layer, beside chance."""
    lines = [_line(report, "overlap", "in common", AGREED), _line(report, "chance", "by chance", CHANCE, dots=False)]
    words = {
        "y_label": "directions in common",
        "title": "Agreement of the two halves of the data",
        "description": "; ".join(_said(line) for line in lines) + ".",
    }
    legend = [(Markup(swatch(AGREED)), "in common"), (Markup(dash_swatch(CHANCE)), "expected of random choices")]
    return _lines(lines, report, **words), legend


def held_bars(report: dict[str, Any]) -> list[Markup]:
    """One panel per kind of module: the share of directions that carry most of the score, a bar per layer."""
    kinds: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for row in report["targets"]:
        kinds.setdefault(row["kind"], {}).setdefault(row["layer"], []).append(row)
    largest = max(row["held_share"] for row in report["targets"])
    top = min(max(largest * HEADROOM, 0.01), 1.0)
    carried = share(report["score_share"])
    return [
        layer_bars(
            [(layer, _mean_share(rows), _held_note(rows)) for layer, rows in found.items()],
            _layers(report),
            y_range=(0.0, top),
            y_label=f"{kind}: share of directions",
            style=WEIGHTS,
            width=BAR_WIDTH,
            height=BAR_HEIGHT,
            title=f"Directions that carry {carried} of the score: {kind}",
            description=f"One bar for each of {len(found)} layers.",
            boundary=report["boundary"]["planned"],
        )
        for kind, found in kinds.items()
    ]


def spectra(report: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry per module of `spectra`: {"name", "region", "figure"}, the figure for wide and narrow pages."""
    name, style = SELECTED
    found = []
    for entry in report["spectra"]:
        chosen = [(name, style, entry["chosen"]["farss"])]
        words = {
            "title": f"Spectrum of {entry['name']}",
            "description": f"Singular values and scores of {len(entry['sigma'])} directions, logarithmic axes.",
        }
        scores = [finite(value) for value in entry["log_scores"]]
        drawn = [
            spectrum_figure(entry["sigma"], scores, chosen, width=width, class_=kind, **words)
            for width, kind in ((HALF, "wide"), (NARROW, "narrow"))
        ]
        found.append({"name": entry["name"], "region": entry["region"], "figure": Markup("").join(drawn)})
    return found


def _line(report: dict[str, Any], key: str, name: str, style: Style, *, dots: bool = True) -> LayerLine:
    known = [(row["layer"], row[key]) for row in report["layers"] if finite(row[key]) is not None]
    points = tuple((layer, value, f"layer {layer}, {name}: {decimal(value)}") for layer, value in known)
    return LayerLine(name, style, points, dots)


def _lines(lines: list[LayerLine], report: dict[str, Any], **words: str) -> Markup:
    options = {"y_range": WHOLE, "boundary": report["boundary"]["planned"], "height": LINE_HEIGHT, **words}
    drawn = [
        layer_lines(lines, _layers(report), width=width, class_=kind, **options)
        for width, kind in ((HALF, "wide"), (NARROW, "narrow"))
    ]
    return Markup("").join(drawn)


def _layers(report: dict[str, Any]) -> int:
    return max(row["layer"] for row in report["layers"]) + 1


def _said(line: LayerLine) -> str:
    values = [value for _, value, _ in line.points]
    return f"{line.name} from {decimal(min(values), 2)} to {decimal(max(values), 2)}" if values else line.name


def _mean_share(rows: list[dict[str, Any]]) -> float:
    return sum(row["held_share"] for row in rows) / len(rows)


def _held_note(rows: list[dict[str, Any]]) -> str:
    row = rows[0]
    if len(rows) > 1:
        return (
            f"layer {row['layer']} {row['kind']}: {share(_mean_share(rows))} of directions, mean of {len(rows)} modules"
        )
    return f"{row['name']}: {row['directions_held']} of {row['directions']} directions"
