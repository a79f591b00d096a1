"""The plane of knowledge kept against task gained: one marker per run, with whiskers, frontier and level curves."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import hypot

from markupsafe import Markup

from farss.report.figures import svg
from farss.report.figures.axes import Scale, frame, span
from farss.report.figures.marks import Style, marker
from farss.report.numbers import Estimate

LEVELS = (0.4, 0.6, 0.7, 0.8, 0.9)
LIMITS_X = (-0.5, 1.6)  # a run that diverged must not squeeze the others into a corner
LIMITS_Y = (0.0, 1.6)
LABEL_SIZE = 13.0
FAR = 3.0  # cost of taking the next candidate, which may be farther away
MISREAD = 50.0

Box = tuple[float, float, float, float]


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
    base_at_origin: bool = True,
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
        base_at_origin: the base model has gained 0 and is marked at (0, 1); False marks the height 1 alone.
        class_: style-sheet classes of the figure.
    """
    x, y = _scales(points, width, height, base_at_origin)
    levels, level_boxes = _level_curves(x, y)
    base, base_boxes = _base(x, y) if base_at_origin else _base_height(x, y)
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
        levels,
        *coloured,
        *(_whiskers(p, x, y) for p in points),
        base,
        *(_mark(p, x, y) for p in points),
        _names(points, x, y, level_boxes + base_boxes),
        class_=class_,
    )


def _scales(points: list[PlanePoint], width: float, height: float, origin: bool) -> tuple[Scale, Scale]:
    xs = [*([0.0] if origin else []), *(v for p in points for v in (*p.x.ends(), *(a for a, _ in p.path)))]
    ys = [1.0, *(v for p in points for v in (*p.y.ends(), *(b for _, b in p.path)))]
    x_low, x_high = span(min(max(v, LIMITS_X[0]), LIMITS_X[1]) for v in xs)
    y_low, y_high = span(min(max(v, LIMITS_Y[0]), LIMITS_Y[1]) for v in ys)
    return (
        Scale(x_low, x_high, 44.0, width - 14.0),
        Scale(max(y_low, 0.0), y_high, height - 44.0, 30.0),
    )


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
    return svg.element("g", svg.tip(note), marker(point.style, cx, cy), ring, class_="point", data_tip=note)


def _base(x: Scale, y: Scale) -> tuple[str, list[Box]]:
    mark = svg.element(
        "g",
        svg.tip("base model: nothing lost, nothing gained"),
        svg.element("circle", cx=x(0.0), cy=y(1.0), r=5.0, class_="base-ring"),
        svg.element("circle", cx=x(0.0), cy=y(1.0), r=1.8, class_="base-dot"),
        svg.label(x(0.0) + 10, y(1.0) - 8, "base", class_="point-name base-name"),
    )
    return mark, [_around(x(0.0) + 24, y(1.0) - 12, 22, 8), _around(x(0.0), y(1.0), 7, 7)]


def _base_height(x: Scale, y: Scale) -> tuple[str, list[Box]]:
    height = svg.line(x.start, y(1.0), x.end, y(1.0), class_="base-height")
    name = svg.label(x.end, y(1.0) - 6, "base keeps 1", class_="point-name base-name", text_anchor="end")
    return height + name, [_around(x.end - 40, y(1.0) - 9, 42, 8)]


def _names(points: list[PlanePoint], x: Scale, y: Scale, occupied: list[Box]) -> str:
    """Names beside markers, each where it covers least of what is already there."""
    taken = list(occupied)
    crossed: list[tuple[float, float]] = []
    for p in points:
        cx, cy = x(x.clamp(p.x.value)), y(y.clamp(p.y.value))
        taken.append(_around(cx, cy, 9, 9))
        crossed += _along([(x(x.clamp(a)), y(y.clamp(b))) for a, b in p.path])
        if p.x.has_interval:
            crossed += _along([(x(x.clamp(v)), cy) for v in p.x.ends()[1:]])
        if p.y.has_interval:
            crossed += _along([(cx, y(y.clamp(v))) for v in p.y.ends()[1:]])
    parts, places = [], [(x(x.clamp(p.x.value)), y(y.clamp(p.y.value))) for p in points]
    for p, place in zip(points, places, strict=True):
        if not p.label:
            continue
        others = [other for other in places if other != place]
        found = _candidates(place, p.label, x)
        costs = [
            _cost(box, taken, crossed, x, y) + FAR * i + _misread(box, place, others) for i, box in enumerate(found)
        ]
        box = found[costs.index(min(costs))]
        taken.append(box)
        parts.append(
            svg.label(box[0], box[3] - 4, p.label, class_=f"point-name {p.style.class_}", font_size=LABEL_SIZE)
        )
    return "".join(parts)


def _candidates(place: tuple[float, float], label: str, x: Scale) -> list[Box]:
    (cx, cy), w, h = place, svg.text_width(label, LABEL_SIZE), LABEL_SIZE + 3
    centred = min(max(cx - w / 2, x.start), x.end + 12 - w)
    boxes = []
    for gap in (11.0, 20.0, 32.0):
        for left, top in (
            (cx + gap, cy - h / 2),
            (cx - gap - w, cy - h / 2),
            (centred, cy - gap - h),
            (centred, cy + gap),
            (cx + gap * 0.6, cy - gap - h * 0.6),
            (cx - gap * 0.6 - w, cy - gap - h * 0.6),
            (cx + gap * 0.6, cy + gap - h * 0.4),
            (cx - gap * 0.6 - w, cy + gap - h * 0.4),
        ):
            boxes.append((left, top, left + w, top + h))
    return boxes


def _misread(box: Box, own: tuple[float, float], others: list[tuple[float, float]]) -> float:
    """Cost of a name that stands nearer to another marker than to its own."""
    reach = _distance(box, own)
    return MISREAD * sum(_distance(box, other) < reach for other in others)


def _distance(box: Box, point: tuple[float, float]) -> float:
    left, top, right, bottom = box
    return hypot(max(left - point[0], 0, point[0] - right), max(top - point[1], 0, point[1] - bottom))


def _cost(box: Box, taken: list[Box], crossed: list[tuple[float, float]], x: Scale, y: Scale) -> float:
    left, top, right, bottom = box
    overlap = sum(
        max(0.0, min(right, r) - max(left, a)) * max(0.0, min(bottom, b) - max(top, t)) for a, t, r, b in taken
    )
    hidden = sum(left - 2 <= a <= right + 2 and top <= b <= bottom for a, b in crossed)
    across = max(0.0, x.start - left) + max(0.0, right - x.end - 12)
    upright = max(0.0, y.end - 8 - top) + max(0.0, bottom - y.start)
    return overlap * 5 + hidden * 9 + (across + upright) * 40


def _around(cx: float, cy: float, half_width: float, half_height: float) -> Box:
    return (cx - half_width, cy - half_height, cx + half_width, cy + half_height)


def _along(corners: list[tuple[float, float]], step: float = 5.0) -> list[tuple[float, float]]:
    dots = []
    for (x1, y1), (x2, y2) in pairwise(corners):
        count = max(1, int(max(abs(x2 - x1), abs(y2 - y1)) / step))
        dots += [(x1 + (x2 - x1) * i / count, y1 + (y2 - y1) * i / count) for i in range(count + 1)]
    return dots
