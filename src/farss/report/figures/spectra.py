"""The spectrum of one weight: singular values, loss-sensitivity scores, and which directions each method takes."""

from __future__ import annotations

import math

from markupsafe import Markup

from farss.report.figures import svg
from farss.report.figures.axes import Scale, frame, span
from farss.report.figures.lines import thin
from farss.report.figures.marks import Style

DOTS = 700
STRIP = 17.0
LEFT, PANEL = 48.0, 132.0
GAP, TOP = 62.0, 30.0


def spectrum_figure(
    sigma: list[float],
    log_scores: list[float | None],
    chosen: list[tuple[str, Style, list[int]]],
    *,
    width: float,
    title: str,
    description: str,
    class_: str = "",
) -> Markup:
    """Two panels over one axis of directions, and a strip per method with the chosen directions marked.

    Args:
        sigma: [k], singular values, descending.
        log_scores: [k], natural logarithms of the scores; None where a score is zero.
        chosen: (name, style, indices from 0) per method.
        width: in pixels.
        title: what is shown.
        description: what can be seen.
        class_: style-sheet classes of the figure.
    """
    k = max(len(sigma), len(log_scores), 1)
    right = width - 10.0
    first_bottom, second_bottom = TOP + PANEL, TOP + PANEL + GAP + PANEL
    x_first = Scale(1, max(k, 2), LEFT, right)
    scores = [None if s is None else s / math.log(10) for s in log_scores]
    sigma_axis = Scale(*span(sigma, log=True), first_bottom, TOP, True)
    low, high = span([s for s in scores if s is not None])
    score_axis = Scale(10.0 ** max(low, -300), 10.0 ** min(high, 300), second_bottom, TOP + PANEL + GAP, True)
    taken = {i for _, _, indices in chosen for i in indices}
    body = [
        frame(x_first, sigma_axis, x_label="", y_label="singular value σ", y_ticks=4),
        _dots([(x_first(i + 1), sigma_axis(v)) for i, v in enumerate(sigma) if v > 0], "sigma"),
        frame(x_first, score_axis, x_label="direction, by singular value", y_label="score s", y_ticks=4),
        _dots([(x_first(i + 1), score_axis(10.0**s)) for i, s in enumerate(scores) if s is not None], "score"),
    ]
    top = second_bottom + 58
    for name, style, indices in chosen:
        body.append(_strip(name, style, indices, k, right, top))
        top += STRIP * 2 + 2
    shown = f"{description} {len(taken)} of {k} directions are taken by at least one method."
    return svg.picture(width, top + 2, title, shown, *body, class_=class_)


def _dots(points: list[tuple[float, float]], class_: str) -> str:
    path = "".join(f"M{svg.number(x)} {svg.number(y)}h0" for x, y in thin(points, DOTS))
    return svg.element("path", d=path, class_=f"dots {class_}")


def _strip(name: str, style: Style, indices: list[int], k: int, right: float, top: float) -> str:
    step = (right - LEFT) / k
    blocks = "".join(
        f"M{svg.number(LEFT + start * step)} {svg.number(top)}h{svg.number(max((end - start) * step, 0.8))}v{STRIP:g}H"
        f"{svg.number(LEFT + start * step)}z"
        for start, end in runs(indices)
    )
    note = f"{name}: {len(indices)} of {k} directions"
    return svg.element(
        "g",
        svg.tip(note),
        svg.element("rect", x=LEFT, y=top, width=right - LEFT, height=STRIP, class_="strip"),
        svg.element("path", d=blocks, class_="taken"),
        svg.label(LEFT, top - 4, note, class_="strip-name"),
        class_=style.class_,
    )


def runs(indices: list[int]) -> list[tuple[int, int]]:
    """Neighbouring indices joined: [1, 2, 3, 7] gives [(1, 4), (7, 8)]."""
    joined: list[tuple[int, int]] = []
    for i in sorted(set(indices)):
        if joined and joined[-1][1] == i:
            joined[-1] = (joined[-1][0], i + 1)
        else:
            joined.append((i, i + 1))
    return joined
