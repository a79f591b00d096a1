"""Scales from numbers to pixels, and the frame drawn around them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from farss.report.figures import svg


@dataclass(frozen=True)
class Scale:
    """A map from [`low`, `high`] to the pixels [`start`, `end`], linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of `value`, which may lie outside the range."""
        low, high = self._inner(self.low), self._inner(self.high)
        return self.start + (self._inner(value) - low) / (high - low) * (self.end - self.start)

    def _inner(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def clamp(self, value: float) -> float:
        """`value`, or the nearer end of the range if it lies outside."""
        return min(max(value, self.low), self.high)

    def holds(self, value: float) -> bool:
        """Whether `value` lies inside the range."""
        return self.low <= value <= self.high

    def ticks(self, count: int = 5) -> list[float]:
        """About `count` round values inside the range."""
        if not self.log:
            return [t for t in _round_steps(self.low, self.high, count) if self.holds(t)]
        first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        step = max(1, math.ceil((last - first + 1) / count))
        powers = [10.0**p for p in range(first, last + 1, step)]
        if len(powers) > 1:
            return powers
        return [t for t in _round_steps(self.low, self.high, 3) if t > 0 and self.holds(t)]


def _round_steps(low: float, high: float, count: int) -> list[float]:
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def span(values: Iterable[float], *, pad: float = 0.06, log: bool = False) -> tuple[float, float]:
    """The range of `values` widened by the share `pad` on both sides, never empty."""
    found = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
    if not found:
        return (0.1, 1.0) if log else (0.0, 1.0)
    low, high = min(found), max(found)
    if log:
        low, high = math.log10(low), math.log10(high)
    room = (high - low) * pad or abs(high) * 0.1 or 1.0
    low, high = low - room, high + room
    return (10.0**low, 10.0**high) if log else (low, high)


SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def tick_text(value: float, log: bool = False) -> str:
    """A tick's value as a reader expects it: 0.5, 2000, 10⁻³."""
    exponent = math.log10(value) if log and value > 0 else 0.5
    if log and abs(exponent - round(exponent)) < 1e-9 and abs(exponent) > 2:
        return "10" + str(round(exponent)).translate(SUPERSCRIPTS)
    return f"{value:.6g}".replace("-", "−")


def frame(x: Scale, y: Scale, *, x_label: str, y_label: str, x_ticks: int = 5, y_ticks: int = 5) -> str:
    """Grid, tick values and axis names; the vertical axis is named above its top, to be read without turning."""
    parts = []
    for value in y.ticks(y_ticks):
        parts.append(svg.line(x.start, y(value), x.end, y(value), class_="grid"))
        parts.append(svg.label(x.start - 7, y(value) + 4, tick_text(value, y.log), class_="tick", text_anchor="end"))
    for value in x.ticks(x_ticks):
        parts.append(svg.line(x(value), y.start, x(value), y.start + 4, class_="axis"))
        parts.append(svg.label(x(value), y.start + 17, tick_text(value, x.log), class_="tick", text_anchor="middle"))
    parts.append(svg.line(x.start, y.start, x.end, y.start, class_="axis"))
    if y_label:
        parts.append(svg.element("text", svg.formula(y_label), x=2.0, y=y.end - 11, class_="axis-name"))
    if x_label:
        name = {"class_": "axis-name", "text_anchor": "end"}
        parts.append(svg.element("text", svg.formula(x_label), x=x.end, y=y.start + 35, **name))
    return "".join(parts)
