"""Markers and line styles: a method is a colour and a shape, a learning rate is a filling and a dash."""

from __future__ import annotations

import math
from dataclasses import dataclass

from farss.report.figures import svg

SHAPES = ("circle", "square", "diamond", "up", "down", "star", "plus", "hexagon")
FILLS = ("solid", "hollow", "dotted", "pale")
DASHES = (None, "6 3.5", "1.5 3.5", "9 3 2 3")


@dataclass(frozen=True)
class Style:
    """How one run looks in every figure.

    Args:
        slot: index of the colour in the style sheet, one per method.
        shape: one of `SHAPES`, one per method.
        fill: index into `FILLS` and `DASHES`, one per learning rate.
    """

    slot: int
    shape: str
    fill: int = 0

    @property
    def class_(self) -> str:
        """The style-sheet class that sets the colour."""
        return f"s{self.slot}"

    @property
    def dash(self) -> str | None:
        """The dash pattern of lines."""
        return DASHES[self.fill % len(DASHES)]


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
    corners = _corners(shape, r)
    return "M" + "L".join(f"{svg.number(x + a)} {svg.number(y + b)}" for a, b in corners) + "z"


def _corners(shape: str, r: float) -> list[tuple[float, float]]:
    if shape == "square":
        return _polygon(4, r * 1.22, 0.5)
    if shape == "diamond":
        return _polygon(4, r * 1.3, 0)
    if shape == "up":
        return [(a, b + r * 0.22) for a, b in _polygon(3, r * 1.3, 0)]
    if shape == "down":
        return [(a, -b - r * 0.22) for a, b in _polygon(3, r * 1.3, 0)]
    if shape == "star":
        outer, inner = _polygon(5, r * 1.4, 0), _polygon(5, r * 0.62, 0.5)
        return [corner for pair in zip(outer, inner, strict=True) for corner in pair]
    if shape == "plus":
        a, b = r * 1.2, r * 0.45
        arm = [(-b, -a), (b, -a), (b, -b)]
        half = [*arm, *((-y, x) for x, y in arm)]
        return [*half, *((-x, -y) for x, y in half)]
    return _polygon(6, r * 1.12, 0.5)


def _polygon(sides: int, radius: float, turn: float) -> list[tuple[float, float]]:
    angles = [2 * math.pi * (i + turn) / sides - math.pi / 2 for i in range(sides)]
    return [(radius * math.cos(a), radius * math.sin(a)) for a in angles]
