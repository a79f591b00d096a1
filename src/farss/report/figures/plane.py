"""The plane of knowledge kept against task gained: one marker per run, with whiskers, frontier and level curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from farss.report.figures import svg
from farss.report.figures.axes import Scale, frame, span
from farss.report.figures.marks import Style, marker
from farss.report.figures.names import Box, Name, names
from farss.report.numbers import Estimate

BASE_NAME = 88.0  # pixels that the name of the base's line takes
LEVELS = (0.4, 0.6, 0.7, 0.8, 0.9, 0.95)
FENCE = (3.0, 0.5)
"""A point farther from the middle half of all than so many times its width, and than this, is drawn at the edge: a run
that diverged must not squeeze the others into a corner."""


@dataclass(frozen=True)
class PlanePoint:
    """One run in the plane.

    Args:
        style: colour, shape and filling.
        x: task gained.
        y: knowledge kept.
        tip: what to say when pointed at.
        label: the name beside the marker, or empty.
        path: (x, y) along the scaled update, in the order of the scale.
    """

    style: Style
    x: Estimate
    y: Estimate
    tip: str
    label: str = ""
    path: tuple[tuple[float, float], ...] = ()


def plane(
    points: list[PlanePoint],
    *,
    width: float,
    height: float,
    x_label: str,
    y_label: str,
    title: str,
    description: str,
    base: str = "point",
    levels: bool = True,
    class_: str = "",
) -> Markup:
    """The plane with level curves of the harmonic mean, frontiers, whiskers and markers.

    Args:
        points: the runs.
        width: in pixels.
        height: in pixels.
        x_label: name of task gained.
        y_label: name of knowledge kept.
        title: what is shown.
        description: what can be seen.
        base: how the base model, which keeps 1, is marked: "point" at (0, 1), for it has gained 0; "height", by the
            line at 1; "either", the point where 0 is in the figure anyway.
        levels: whether to draw the curves of equal harmonic mean.
        class_: style-sheet classes of the figure.
    """
    x, y = _scales(points, width, height, base == "point")
    curves, level_boxes = _level_curves(x, y) if levels else ("", [])
    at_point = base == "point" or (base == "either" and x.holds(0.0))
    base_mark, base_boxes = _base(x, y) if at_point else _base_height(points, level_boxes, x, y)
    frontiers = [
        svg.polyline([(x(x.clamp(a)), y(y.clamp(b))) for a, b in p.path], class_="curve", stroke_dasharray=p.style.dash)
        for p in points
    ]
    coloured = [
        svg.element("g", path, class_=f"{p.style.class_} frontier") for p, path in zip(points, frontiers, strict=True)
    ]
    return svg.picture(
        width,
        height,
        title,
        description,
        frame(x, y, x_label=x_label, y_label=y_label, x_ticks=6 if width > 500 else 4),
        curves,
        *coloured,
        *(_whiskers(p, x, y) for p in points),
        base_mark,
        *(_mark(p, x, y) for p in points),
        _names(points, x, y, level_boxes + base_boxes, [] if at_point else [[(x.start, y(1.0)), (x.end, y(1.0))]]),
        class_=class_,
    )


def _scales(points: list[PlanePoint], width: float, height: float, origin: bool) -> tuple[Scale, Scale]:
    across, up = fence([p.x.value for p in points]), fence([p.y.value for p in points])
    xs = [*([0.0] if origin else []), *(v for p in points for v in (*p.x.ends(), *(a for a, _ in p.path)))]
    ys = [1.0, *(v for p in points for v in (*p.y.ends(), *(b for _, b in p.path)))]
    x_low, x_high = span(v for v in xs if across[0] <= v <= across[1] or v == 0.0)
    y_low, y_high = span(v for v in ys if up[0] <= v <= up[1] or v == 1.0)
    return (
        Scale(x_low, x_high, 44.0, width - 14.0),
        Scale(max(y_low, 0.0), y_high, height - 44.0, 30.0),
    )


def fence(values: Sequence[float]) -> tuple[float, float]:
    """Between which values points are drawn where they are; one outside is drawn at the edge (`FENCE`)."""
    order = sorted(values)
    low, high = order[len(order) // 4], order[-1 - len(order) // 4]
    room = max(FENCE[0] * (high - low), FENCE[1])
    return low - room, high + room


def _level_curves(x: Scale, y: Scale) -> tuple[str, list[Box]]:
    parts, boxes = [], []
    for level in LEVELS:
        start = max(x.low, level / 2 * 1.001, level * y.high / (2 * y.high - level))
        if start >= x.high:
            continue
        xs = [start + (x.high - start) * i / 60 for i in range(61)]
        curve = [(x(a), y(b)) for a in xs if y.holds(b := level * a / (2 * a - level))]
        if len(curve) < 8:
            continue
        parts.append(svg.polyline(curve, class_="level"))
        start_x, start_y = curve[0]
        left, base_line = start_x + 4, max(start_y - 3, y.end + 8)
        parts.append(svg.label(left, base_line, f"{level:g}", class_="level-name"))
        boxes.append(_around(left + 8, base_line - 4, 9, 6))
    return "".join(parts), boxes


def _whiskers(point: PlanePoint, x: Scale, y: Scale) -> str:
    cx, cy = x(x.clamp(point.x.value)), y(y.clamp(point.y.value))
    parts = []
    if point.x.has_interval:
        low, high = (x(x.clamp(v)) for v in point.x.ends()[1:])
        parts.append(svg.line(low, cy, high, cy, class_="whisker"))
    if point.y.has_interval:
        low, high = (y(y.clamp(v)) for v in point.y.ends()[1:])
        parts.append(svg.line(cx, low, cx, high, class_="whisker"))
    return svg.element("g", *parts, class_=point.style.class_)


def _mark(point: PlanePoint, x: Scale, y: Scale) -> str:
    cx, cy = x(x.clamp(point.x.value)), y(y.clamp(point.y.value))
    outside = not (x.holds(point.x.value) and y.holds(point.y.value))
    note = f"{point.tip} (outside the figure)" if outside else point.tip
    ring = svg.element("circle", cx=cx, cy=cy, r=11.0, class_="outside") if outside else ""
    return svg.element(
        "g", svg.tip(note), marker(point.style, cx, cy), ring, class_=f"point {point.style.class_}", data_tip=note
    )


def _base(x: Scale, y: Scale) -> tuple[str, list[Box]]:
    mark = svg.element(
        "g",
        svg.tip("base model: nothing lost, nothing gained"),
        svg.element("circle", cx=x(0.0), cy=y(1.0), r=5.0, class_="base-ring"),
        svg.element("circle", cx=x(0.0), cy=y(1.0), r=1.8, class_="base-dot"),
        svg.label(x(0.0) + 10, y(1.0) - 8, "base", class_="point-name base-name"),
    )
    return mark, [_around(x(0.0) + 24, y(1.0) - 12, 22, 8), _around(x(0.0), y(1.0), 7, 7)]


def _base_height(points: list[PlanePoint], occupied: list[Box], x: Scale, y: Scale) -> tuple[str, list[Box]]:
    """The line at 1, named where it is farthest from all marks."""
    height = svg.line(x.start, y(1.0), x.end, y(1.0), class_="base-height")
    near = [x(x.clamp(p.x.value)) for p in points if abs(y(y.clamp(p.y.value)) - y(1.0)) < BASE_NAME]
    near += [(left + right) / 2 for left, _, right, bottom in occupied if bottom > y(1.0) - 22]
    middles = [x.start + BASE_NAME / 2 + (x.end - x.start - BASE_NAME) * i / 12 for i in range(13)]
    middle = max(middles, key=lambda m: min((abs(m - mark) for mark in near), default=-m))
    name = svg.label(middle, y(1.0) - 6, "base keeps 1", class_="point-name base-name", text_anchor="middle")
    return height + name, [_around(middle, y(1.0) - 9, BASE_NAME / 2, 9)]


def _names(
    points: list[PlanePoint], x: Scale, y: Scale, occupied: list[Box], lines: list[list[tuple[float, float]]]
) -> str:
    marks, lines = [], list(lines)
    for p in points:
        cx, cy = x(x.clamp(p.x.value)), y(y.clamp(p.y.value))
        marks.append((cx, cy))
        lines.append([(x(x.clamp(a)), y(y.clamp(b))) for a, b in p.path])
        if p.x.has_interval:
            lines.append([(x(x.clamp(v)), cy) for v in p.x.ends()[1:]])
        if p.y.has_interval:
            lines.append([(cx, y(y.clamp(v))) for v in p.y.ends()[1:]])
    found = [Name(mark, p.label, p.style.class_) for p, mark in zip(points, marks, strict=True) if p.label]
    room = (x.start + 2, y.end - 8, x.end + 12, y.start - 2)
    return names(found, marks, room, occupied, lines)


def _around(cx: float, cy: float, half_width: float, half_height: float) -> Box:
    return (cx - half_width, cy - half_height, cx + half_width, cy + half_height)
