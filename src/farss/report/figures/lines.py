"""Line panels: small multiples in which one group of lines stands before the pale lines of all others."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from farss.report.figures import svg
from farss.report.figures.axes import Scale, frame, span
from farss.report.figures.marks import Style

GHOST_POINTS = 50
LINE_POINTS = 240
SMOOTHING = 10  # a curve is averaged over windows of its length divided by this


@dataclass(frozen=True)
class Series:
    """One line: its style and its (x, y) points."""

    style: Style
    points: tuple[tuple[float, float], ...]
    name: str = ""


def ranges(series: list[Series], log: bool = False) -> tuple[tuple[float, float], tuple[float, float]]:
    """The common x and y ranges of all lines, for panels that can be compared."""
    xs = [x for s in series for x, _ in s.points]
    ys = [y for s in series for _, y in smooth(s.points)]
    return (min(xs, default=0.0), max(xs, default=1.0)), span(ys, log=log)


def smooth(points: tuple[tuple[float, float], ...]) -> list[tuple[float, float]]:
    """The centred moving average over a window proportional to the length; at both ends over what there is of it."""
    half = len(points) // SMOOTHING // 2
    result = []
    for i, (x, _) in enumerate(points):
        window = points[max(i - half, 0) : i + half + 1]
        result.append((x, sum(y for _, y in window) / len(window)))
    return result


def thin(points: list[tuple[float, float]], limit: int) -> list[tuple[float, float]]:
    """At most about `limit` of the points, evenly spaced, first and last kept."""
    if len(points) <= limit:
        return points
    step = (len(points) - 1) / (limit - 1)
    return [points[round(i * step)] for i in range(limit)]


def line_panel(
    front: list[Series],
    behind: list[Series],
    *,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    width: float,
    height: float,
    x_label: str,
    y_label: str,
    title: str,
    description: str,
    log: bool = False,
) -> Markup:
    """One panel: `front` in colour, smoothed over a faint trace of what was recorded, `behind` as pale lines."""
    x = Scale(x_range[0], x_range[1] if x_range[1] > x_range[0] else x_range[0] + 1, 40.0, width - 8.0)
    y = Scale(y_range[0], y_range[1], height - 40.0, 28.0, log)
    body = [frame(x, y, x_label=x_label, y_label=y_label, x_ticks=4, y_ticks=4)]
    for series in behind:
        ghost = [(x(a), y(y.clamp(b))) for a, b in thin(smooth(series.points), GHOST_POINTS)]
        body.append(svg.polyline(ghost, class_="ghost"))
    for series in front:
        raw = [(x(a), y(y.clamp(b))) for a, b in thin(list(series.points), LINE_POINTS)]
        calm = [(x(a), y(y.clamp(b))) for a, b in thin(smooth(series.points), LINE_POINTS)]
        trace = svg.polyline(raw, class_="trace")
        curve = svg.polyline(calm, class_="curve", stroke_dasharray=series.style.dash)
        body.append(svg.element("g", svg.tip(series.name), trace, curve, class_=series.style.class_))
    return svg.picture(width, height, title, description, *body)
