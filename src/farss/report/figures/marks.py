"""Markers and line styles: a method is a colour and a mark, a learning rate is a filling and a dash."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from farss.report.figures import svg
from farss.report.figures.colours import LIGHT_PAPER, NIGHT_PAPER, readable

FILLS = ("solid", "hollow", "dotted", "pale")
DASHES = (None, "6 3.5", "1.5 3.5", "9 3 2 3")

Corners = list[tuple[float, float]]


@dataclass(frozen=True)
class Style:
    """How one run looks in every figure.

    Args:
        class_: the style-sheet class that sets the colour: `tone` of a method's, or the page's own s0 to s8.
        shape: one of `farss.methods.look.MARKS`.
        fill: index into `FILLS` and `DASHES`, one per learning rate.
    """

    class_: str
    shape: str
    fill: int = 0

    @property
    def dash(self) -> str | None:
        """The dash pattern of lines."""
        return DASHES[self.fill % len(DASHES)]


def tone(colour: str) -> str:
    """The style-sheet class of a colour `#rrggbb`, for which `colour_rules` has the rule."""
    return f"m{colour.removeprefix('#')}"


def colour_rules(colours: Iterable[str]) -> str:
    """Style-sheet rules that give each class of `tone` its colour, on light and on dark paper."""
    chosen = sorted(set(colours))
    day = "".join(f".{tone(c)}{{--c:{readable(c, LIGHT_PAPER)}}}" for c in chosen)
    night = "".join(f".{tone(c)}{{--c:{readable(c, NIGHT_PAPER)}}}" for c in chosen)
    return f"{day}@media screen and (prefers-color-scheme: dark){{{night}}}" if chosen else ""


def marker(style: Style, x: float, y: float, radius: float = 6.0) -> str:
    """One marker of the given style centred at (`x`, `y`) in pixels."""
    fill = FILLS[style.fill % len(FILLS)]
    shape = svg.element("path", d=_outline(style.shape, x, y, radius), class_=f"mark {fill}")
    if fill == "dotted":
        shape += svg.element("circle", cx=x, cy=y, r=radius * 0.32, class_="mark-dot")
    return svg.element("g", shape, class_=style.class_)


def swatch(style: Style, title: str = "") -> str:
    """A marker as a small picture of its own, for legends and table rows."""
    body = marker(style, 8.0, 8.0, 5.5)
    shown = svg.tip(title) if title else ""
    hidden = None if title else "true"
    frame = {"class_": "swatch", "viewBox": "0 0 16 16", "width": 16, "height": 16, "aria_hidden": hidden}
    return svg.element("svg", shown, body, **frame)


def dash_swatch(style: Style) -> str:
    """A piece of line in the style's dash pattern, for legends."""
    stroke = svg.line(1, 8, 31, 8, class_="curve neutral", stroke_dasharray=style.dash)
    return svg.element("svg", stroke, class_="swatch", viewBox="0 0 32 16", width=32, height=16, aria_hidden="true")


def _outline(shape: str, x: float, y: float, r: float) -> str:
    if shape == "circle":
        n = svg.number
        return f"M{n(x - r)} {n(y)}a{n(r)} {n(r)} 0 1 0 {n(2 * r)} 0a{n(r)} {n(r)} 0 1 0 {n(-2 * r)} 0z"
    return "M" + "L".join(f"{svg.number(x + a * r)} {svg.number(y + b * r)}" for a, b in CORNERS[shape]()) + "z"


def _polygon(sides: int, radius: float, turn: float = 0.0) -> Corners:
    angles = [2 * math.pi * (i + turn) / sides - math.pi / 2 for i in range(sides)]
    return [(radius * math.cos(a), radius * math.sin(a)) for a in angles]


def _star(points: int, outer: float, inner: float) -> Corners:
    pairs = zip(_polygon(points, outer), _polygon(points, inner, 0.5), strict=True)
    return [corner for pair in pairs for corner in pair]


def _triangle() -> Corners:
    return [(a, b + 0.22) for a, b in _polygon(3, 1.3)]


def _plus() -> Corners:
    a, b = 1.2, 0.45
    arm = [(-b, -a), (b, -a), (b, -b)]
    half = [*arm, *((-y, x) for x, y in arm)]
    return [*half, *((-x, -y) for x, y in half)]


def _dome() -> Corners:
    arc = [(1.25 * math.cos(math.pi * i / 12), 0.6 - 1.25 * math.sin(math.pi * i / 12)) for i in range(13)]
    return [(x, y) for x, y in arc]


def _hourglass() -> Corners:
    return [(-1.05, -1.15), (1.05, -1.15), (0.2, 0.0), (1.05, 1.15), (-1.05, 1.15), (-0.2, 0.0)]


def _box(half_width: float, half_height: float) -> Corners:
    w, h = half_width, half_height
    return [(-w, -h), (w, -h), (w, h), (-w, h)]


def _turned(corners: Corners) -> Corners:
    return [(b, a) for a, b in corners]


def _flipped(corners: Corners) -> Corners:
    return [(a, -b) for a, b in corners]


def _eighth_turn(corners: Corners) -> Corners:
    s = math.sqrt(0.5)
    return [(s * (a - b), s * (a + b)) for a, b in corners]


CORNERS: dict[str, Callable[[], Corners]] = {
    "square": lambda: _polygon(4, 1.22, 0.5),
    "diamond": lambda: _polygon(4, 1.3),
    "up": _triangle,
    "down": lambda: _flipped(_triangle()),
    "left": lambda: _turned(_triangle()),
    "right": lambda: [(-a, b) for a, b in _turned(_triangle())],
    "star": lambda: _star(5, 1.4, 0.62),
    "plus": _plus,
    "cross": lambda: _eighth_turn(_plus()),
    "hexagon": lambda: _polygon(6, 1.12, 0.5),
    "pentagon": lambda: _polygon(5, 1.2),
    "hourglass": _hourglass,
    "bowtie": lambda: _turned(_hourglass()),
    "star4": lambda: _star(4, 1.5, 0.5),
    "star6": lambda: _star(6, 1.35, 0.55),
    "dome": _dome,
    "bowl": lambda: _flipped(_dome()),
    "bar": lambda: _box(0.5, 1.25),
    "plank": lambda: _box(1.25, 0.5),
    "chevron": lambda: [(-1.2, 0.2), (0.0, -1.1), (1.2, 0.2), (1.2, 1.1), (0.0, -0.1), (-1.2, 1.1)],
}
"""The corners of every mark but the circle, in units of its radius; y grows downwards."""
