"""The figures of one report: its records turned into the plain arguments of the drawing functions."""

from __future__ import annotations

import math
import re
from typing import Any

from markupsafe import Markup

from farss.report.figures.heat_map import Cell, heat_map
from farss.report.figures.lines import Series, line_panel, ranges
from farss.report.figures.plane import PlanePoint, plane
from farss.report.figures.spectra import spectrum_figure
from farss.report.numbers import Estimate, count, decimal, estimate, finite, tagged
from farss.report.runs import Run, representatives

LAYERS_PER_BAND = 32
LOG_RANGE = 20.0  # losses spread wider than this factor get a logarithmic axis
WIDE, NARROW = 1060.0, 340.0


def likelihood_plane(runs: list[Run]) -> Markup:
    """Probability kept against task share gained, for wide and narrow pages; empty if unmeasured."""
    words = {
        "x_label": "task share gained, T_l →",
        "y_label": "↑ probability kept, K_p",
        "title": "Probability kept against task share gained",
    }
    return _plane(runs, "T_l", "K_p", words, (620.0, 480.0))


def accuracy_plane(runs: list[Run]) -> Markup:
    """The paper's K against its T, for wide and narrow pages; empty if unmeasured."""
    words = {
        "x_label": "task gained, T →",
        "y_label": "↑ knowledge kept, K",
        "title": "The paper’s K against T, from accuracies",
    }
    return _plane(runs, "T", "K", words, (410.0, 390.0))


def _plane(runs: list[Run], x: str, y: str, words: dict[str, str], wide: tuple[float, float]) -> Markup:
    named = {run.id for run in representatives(runs)}
    points = []
    for run in runs:
        across, up = run.measure(x), run.measure(y)
        if across is None or up is None:
            continue
        note = f"{run.name}: {y} {_spoken(up)}, {x} {_spoken(across)}"
        label = run.method_label if run.id in named else ""
        path = _frontier(run) if y == "K_p" else ()
        points.append(PlanePoint(run.style, across, up, note, label, path))
    if not points:
        return Markup("")
    description = f"{len(points)} runs. " + "; ".join(p.tip for p in points) + "."
    drawn = [
        plane(
            points,
            width=w,
            height=h,
            description=description,
            base="point" if y == "K_p" else "height",
            class_=kind,
            x_label=words["x_label"],
            y_label=words["y_label"],
            title=words["title"],
        )
        for w, h, kind in ((*wide, "wide"), (NARROW, 400.0, "narrow"))
    ]
    return Markup("").join(drawn)


def _frontier(run: Run) -> tuple[tuple[float, float], ...]:
    found = []
    for point in run.record.get("frontier") or []:
        across, up = estimate(point.get("T_l")), estimate(point.get("K_p"))
        if across and up:
            found.append((float(point["scale"]), across.value, up.value))
    return tuple((a, b) for _, a, b in sorted(found))


def _spoken(found: Estimate) -> str:
    text = decimal(found.value)
    return f"{text} [{decimal(found.low)}, {decimal(found.high)}]" if found.has_interval else text  # type: ignore[arg-type]  # has_interval


def curve_panels(runs: list[Run]) -> list[Markup]:
    """One panel per method: its training losses in colour before those of all others."""
    series = {run.id: _curve(run) for run in runs}
    drawn = [s for s in series.values() if s.points]
    if not drawn:
        return []
    losses = [y for s in drawn for _, y in s.points if y > 0]
    log = bool(losses) and max(losses) / min(losses) > LOG_RANGE
    x_range, y_range = ranges(drawn, log)
    panels = []
    for method in dict.fromkeys(r.method for r in runs):
        front = [series[r.id] for r in runs if r.method == method and series[r.id].points]
        if not front:
            continue
        label = next(r.method_label for r in runs if r.method == method)
        panel = line_panel(
            front,
            [s for s in drawn if s not in front],
            x_range=x_range,
            y_range=y_range,
            width=330.0,
            height=200.0,
            x_label="step",
            y_label=f"{label}: loss",
            title=f"Training loss of {label}",
            description=f"Loss per step of {', '.join(s.name for s in front)}; pale lines are the other runs.",
            log=log,
        )
        panels.append(panel)
    return panels


def _curve(run: Run) -> Series:
    points = tuple((float(step), float(loss)) for step, loss in run.record.get("curve") or [] if math.isfinite(loss))
    return Series(run.style, points, run.name)


def plan_maps(runs: list[Run]) -> tuple[list[dict[str, Any]], list[Markup]]:
    """Rank maps of the plans whose ranks differ between modules, and a sentence for each plan with one rank only.

    Returns:
        Maps as {"names", "plan", "ranks", "importance"} (importance empty when not in the plan), and sentences.
    """
    groups: list[tuple[list[str], dict[str, Any]]] = []
    for run in runs:
        plan = run.record.get("plan")
        if not plan or not plan.get("targets"):
            continue
        ranks = [(t["name"], t["rank"]) for t in plan["targets"]]
        same = next((g for g in groups if [(t["name"], t["rank"]) for t in g[1]["targets"]] == ranks), None)
        if same is None:
            groups.append(([run.method_label], plan))
        elif run.method_label not in same[0]:
            same[0].append(run.method_label)
    maps, sentences = [], []
    for names, plan in groups:
        ranks = {t["rank"] for t in plan["targets"]}
        if len(ranks) == 1:
            rank = float(ranks.pop())
            text = Markup("<strong>{}</strong>: rank {} in each of {} modules.")
            sentences.append(text.format(", ".join(names), tagged(rank, count(rank)), len(plan["targets"])))
        else:
            figures = {"ranks": rank_map(plan), "importance": importance_map(plan)}
            maps.append({"names": ", ".join(names), "plan": plan, **figures})
    return maps, sentences


def rank_map(plan: dict[str, Any]) -> Markup:
    """The rank of every module, layers against kinds, for wide and narrow pages."""
    targets = plan["targets"]
    largest = max(max(t["rank"] for t in targets), 1)
    cells = {}
    for place, group in _places(targets).items():
        ranks = [t["rank"] for t in group]
        mean = sum(ranks) / len(ranks)
        text = f"{mean:.0f}"
        note = f"{_described(group, place)}: rank {text}" + (f", mean of {len(ranks)}" if len(ranks) > 1 else "")
        cells[place] = Cell(mean / largest, text, note)
    return _layer_maps(cells, plan, "Rank of every adapted module", "Darker cells have a larger rank.")


def importance_map(plan: dict[str, Any]) -> Markup:
    """The importance of the modules that have one, on a logarithmic colour scale; empty if none has."""
    known = [t for t in plan["targets"] if (finite(t.get("importance")) or 0) > 0]
    if not known:
        return Markup("")
    logs = [math.log10(t["importance"]) for t in known]
    low, width = min(logs), (max(logs) - min(logs)) or 1.0
    cells = {}
    for place, group in _places(known).items():
        mean = sum(t["importance"] for t in group) / len(group)
        text = re.sub(r"e([-+])0?", lambda m: "e" + m.group(1).strip("+"), f"{mean:.0e}")
        note = f"{_described(group, place)}: importance {mean:.3g}"
        cells[place] = Cell(0.05 + 0.95 * (math.log10(mean) - low) / width, text, note)
    return _layer_maps(cells, plan, "Importance of modules", "Darker cells are more important, logarithmically.")


def _described(group: list[dict[str, Any]], place: tuple[str, str]) -> str:
    region = group[0].get("region")
    where = group[0]["name"] if len(group) == 1 else f"layer {place[1]} {place[0]}"
    return f"{where} ({region})" if region else where


def _places(targets: list[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Targets by (kind, layer); a kind met twice in a layer is named with its parent, experts stand together."""
    kinds: dict[str, list[str]] = {t["name"]: _name_parts(t) for t in targets}
    parents: dict[tuple[Any, str], set[str]] = {}
    for t in targets:
        parts = kinds[t["name"]]
        parents.setdefault((t.get("layer"), parts[-1]), set()).add(parts[-2] if len(parts) > 1 else "")
    ambiguous = {kind for (_, kind), found in parents.items() if len(found) > 1}
    places: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for t in targets:
        parts = kinds[t["name"]]
        kind = ".".join(parts[-2:]) if parts[-1] in ambiguous else parts[-1]
        layer = "–" if t.get("layer") is None else str(t["layer"])
        places.setdefault((kind, layer), []).append(t)
    return places


def _name_parts(target: dict[str, Any]) -> list[str]:
    return [part for part in str(target["name"]).split(".") if not part.isdigit()] or [str(target["name"])]


def _layer_maps(cells: dict[tuple[str, str], Cell], plan: dict[str, Any], title: str, description: str) -> Markup:
    kinds = list(dict.fromkeys(kind for kind, _ in cells))
    layers = sorted(dict.fromkeys(layer for _, layer in cells), key=_layer_order)
    shallow = plan.get("shallow_layers")
    border = str(shallow - 1) if shallow else None

    def draw(rows: list[str], columns: list[str], found: dict[tuple[str, str], Cell], **options: Any) -> Markup:
        return heat_map(rows, columns, found, title=title, description=description, **options)

    across = {"width": WIDE, "row_name": "", "column_name": "layer", "divide_after_column": border, "class_": "wide"}
    bands = [layers[i : i + LAYERS_PER_BAND] for i in range(0, len(layers), LAYERS_PER_BAND)]
    drawn = [draw(kinds, band, cells, **across) for band in bands]
    upright = {"width": NARROW, "row_name": "layer", "column_name": "", "divide_after_row": border, "class_": "narrow"}
    turned = {(layer, kind): cell for (kind, layer), cell in cells.items()}
    drawn.append(draw(layers, kinds, turned, row_height=20.0, **upright))
    return Markup("").join(drawn)


def _layer_order(layer: str) -> tuple[bool, int]:
    return (not layer.isdigit(), int(layer) if layer.isdigit() else 0)


def spectrum_figures(report: dict[str, Any], runs: list[Run]) -> list[dict[str, Any]]:
    """One entry per module of `spectra`: {"name", "region", "figure"}, the figure for wide and narrow pages."""
    figures = []
    for spectrum in report.get("spectra") or []:
        sigma = [float(v) for v in spectrum.get("sigma") or [] if finite(v) is not None]
        scores = [finite(v) for v in spectrum.get("log_scores") or []]
        if not sigma and not scores:
            continue
        chosen = []
        for method, indices in (spectrum.get("chosen") or {}).items():
            run = next((r for r in runs if method in (r.method, r.id)), None)
            if run is not None and indices:
                chosen.append((run.method_label, run.style, indices))
        title = f"Spectrum of {spectrum['name']}"
        description = f"Singular values and loss-sensitivity scores of {len(sigma)} directions, logarithmic axes."
        drawn = [
            spectrum_figure(sigma, scores, chosen, width=w, title=title, description=description, class_=kind)
            for w, kind in ((490.0, "wide"), (NARROW, "narrow"))
        ]
        figures.append({"name": spectrum["name"], "region": spectrum.get("region"), "figure": Markup("").join(drawn)})
    return figures
