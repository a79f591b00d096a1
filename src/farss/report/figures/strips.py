"""An interval as a dot with whiskers on a short axis, to stand in a table row."""

from __future__ import annotations

from markupsafe import Markup

from farss.report.figures import svg
from farss.report.figures.axes import Scale
from farss.report.figures.marks import Style, marker
from farss.report.numbers import Estimate

NEUTRAL = Style("s0", "circle")


def interval_strip(
    estimate: Estimate,
    axis: tuple[float, float],
    *,
    title: str,
    style: Style = NEUTRAL,
    marks: tuple[float, ...] = (),
    band: Estimate | None = None,
    strong: bool = True,
    width: float = 180.0,
) -> Markup:
    """One row of a forest plot.

    Args:
        estimate: the value and its interval.
        axis: (low, high) of the common axis of all rows.
        title: said when pointed at.
        style: of the dot.
        marks: values at which a vertical line is drawn.
        band: an estimate whose interval is shaded, to compare this one with.
        strong: False draws the row pale, for a difference that may be zero.
        width: in pixels.
    """
    x = Scale(axis[0], axis[1] if axis[1] > axis[0] else axis[0] + 1.0, 7.0, width - 7.0)
    middle = 10.0
    body = [svg.line(x(v), 0, x(v), 20, class_="strip-mark") for v in marks if x.holds(v)]
    if band is not None and band.has_interval:
        low, high = (x(x.clamp(v)) for v in band.ends()[1:])
        body.append(svg.element("rect", x=low, y=0, width=high - low, height=20, class_="band"))
    if estimate.has_interval:
        low, high = (x(x.clamp(v)) for v in estimate.ends()[1:])
        body.append(svg.line(low, middle, high, middle, class_="whisker"))
    dot = marker(style, x(x.clamp(estimate.value)), middle, 4.5)
    row = svg.element("g", *body, dot, class_=style.class_ + ("" if strong else " weak"))
    return Markup(
        svg.element(
            "svg", svg.tip(title), row, class_="interval", viewBox=f"0 0 {svg.number(width)} 20", width=width, height=20
        )
    )
