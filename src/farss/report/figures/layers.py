"""Values over the layers of a model: lines with a dot per layer, and bars."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from farss.report.figures import svg
from farss.report.figures.axes import Scale, frame
from farss.report.figures.marks import Style

LEFT, RIGHT, TOP, BOTTOM = 44.0, 10.0, 30.0, 42.0
DOT = 2.6
BAR_SHARE = 0.72  # of the room of a layer that its bar fills
LAYER_TICKS, VALUE_TICKS = 8, 4


@dataclass(frozen=True)
class LayerLine:
    """One line: its name and style, and (layer, value, what to say when pointed at) from the first layer to the last.

    A line without dots is a yardstick for the others.
    """

    name: str
    style: Style
    points: tuple[tuple[int, float, str], ...]
    dots: bool = True


def layer_lines(
    lines: list[LayerLine],
    layers: int,
    *,
    y_range: tuple[float, float],
    y_label: str,
    width: float,
    height: float,
    title: str,
    description: str,
    boundary: int | None = None,
    class_: str = "",
) -> Markup:
    """Lines over layers 0 to `layers - 1`.

    Args:
        lines: drawn in this order.
        layers: their number.
        y_range: of the vertical axis.
        y_label: its name.
        width: in pixels.
        height: in pixels.
        title: what is shown.
        description: what can be seen.
        boundary: number of shallow layers, after which a border is drawn.
        class_: style-sheet classes of the figure.
    """
    x, y = _axes(layers, y_range, width, height)
    body = [_frame(x, y, layers, y_label), _border(x, y, boundary, layers)]
    for one in lines:
        places = [(x(layer), y(y.clamp(value))) for layer, value, _ in one.points]
        path = svg.polyline(places, class_="curve", stroke_dasharray=one.style.dash)
        marks = ""
        if one.dots:
            for place, (_, _, note) in zip(places, one.points, strict=True):
                mark = svg.element("circle", cx=place[0], cy=place[1], r=DOT, class_="mark-dot")
                marks += svg.element("g", svg.tip(note), mark, data_tip=note)
        body.append(svg.element("g", path, marks, class_=one.style.class_))
    return svg.picture(width, height, title, description, *body, class_=class_)


def layer_bars(
    bars: list[tuple[int, float, str]],
    layers: int,
    *,
    y_range: tuple[float, float],
    y_label: str,
    style: Style,
    width: float,
    height: float,
    title: str,
    description: str,
    boundary: int | None = None,
) -> Markup:
    """One bar per layer, from (layer, value, what to say when pointed at); further arguments as `layer_lines`."""
    x, y = _axes(layers, y_range, width, height)
    room = (x.end - x.start) / layers * BAR_SHARE
    parts = []
    for layer, value, note in bars:
        top = y(y.clamp(value))
        box = svg.element("rect", x=x(layer) - room / 2, y=top, width=room, height=max(y.start - top, 0.5))
        parts.append(svg.element("g", svg.tip(note), box, class_="taken", data_tip=note))
    body = svg.element("g", *parts, class_=style.class_)
    return svg.picture(
        width, height, title, description, _frame(x, y, layers, y_label), body, _border(x, y, boundary, layers)
    )


def _axes(layers: int, y_range: tuple[float, float], width: float, height: float) -> tuple[Scale, Scale]:
    return Scale(-0.5, layers - 0.5, LEFT, width - RIGHT), Scale(*y_range, height - BOTTOM, TOP)


def _frame(x: Scale, y: Scale, layers: int, y_label: str) -> str:
    return frame(x, y, x_label="layer", y_label=y_label, x_ticks=min(LAYER_TICKS, layers), y_ticks=VALUE_TICKS)


def _border(x: Scale, y: Scale, boundary: int | None, layers: int) -> str:
    if boundary is None or not 0 < boundary < layers:
        return ""
    place = x(boundary - 0.5)
    return svg.line(place, y.start, place, y.end - 4, class_="border")
