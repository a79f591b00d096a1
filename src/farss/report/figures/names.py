"""Names beside marks: each where it covers nothing, with a thin line to its mark where it stands apart from it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import cos, hypot, pi, sin

import numpy as np
from numpy.typing import NDArray

from farss.report.figures import svg

LABEL_SIZE = 13.0
REACHES = (0.0, 9.0, 21.0, 36.0, 54.0, 76.0, 102.0)  # from mark to name, in pixels
DIRECTIONS = 16
MARK = 10.0  # half of what a mark takes with the air around it
AIR = 3.0  # between a name and a line beside it
APART = 16.0  # from here on a line joins name and mark
SWEEPS = 6
KEPT_CHOICES = 40  # of the places of one name, the cheapest; the others never win
TOUCH = 4.0  # square pixels by which two boxes may overlap, of the cautious air around both

OVERLAP, CROSSED, OUTSIDE, FAR, JOINED, MISREAD, CUT = 5.0, 15.0, 60.0, 0.9, 8.0, 50.0, 60.0
"""Costs: of a square pixel covered, of a line crossed, of a pixel outside, of a pixel of distance, of a joining line,
of a name nearer to another mark, and of a name or mark that a joining line runs through."""

Point = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Name:
    """One name: the mark it belongs to, its text, and the style-sheet class that colours it."""

    mark: Point
    text: str
    class_: str


@dataclass(frozen=True)
class _Choice:
    """A place for a name, and what it costs before other names are looked at."""

    box: Box
    joined: tuple[Point, Point] | None
    cost: float
    covers: bool


def names(found: list[Name], marks: list[Point], room: Box, occupied: list[Box], lines: list[list[Point]]) -> str:
    """The names as SVG; one that would have to cover a mark or another name is left out.

    Args:
        found: what is to be named.
        marks: all marks, named or not.
        room: what names must stay inside.
        occupied: further boxes that names should not cover.
        lines: lines that names should not cross.
    """
    dots = np.array([dot for line in lines for dot in _along(line)], dtype=np.float64).reshape(-1, 2)
    choices = [_choices(name, marks, room, occupied, dots) for name in found]
    picked = [0] * len(choices)
    for _ in range(SWEEPS):
        before = list(picked)
        for i, own in enumerate(choices):
            others = [choices[j][picked[j]] for j in range(len(found)) if j != i]
            costs = [choice.cost + _beside(choice, others) for choice in own]
            picked[i] = costs.index(min(costs))
        if picked == before:
            break
    return _drawn(found, [own[k] for own, k in zip(choices, picked, strict=True)])


def _drawn(found: list[Name], places: list[_Choice]) -> str:
    parts, shown = [], []
    for name, place in zip(found, places, strict=True):
        if place.covers or any(_overlap(place.box, other.box) > TOUCH for other in shown):
            continue
        shown.append(place)
        if place.joined:
            (x1, y1), (x2, y2) = place.joined
            parts.append(svg.line(x1, y1, x2, y2, class_=f"joined {name.class_}"))
        text = {"class_": f"point-name {name.class_}", "font_size": LABEL_SIZE}
        parts.append(svg.label(place.box[0] + 2, place.box[3] - 4, name.text, **text))
    return "".join(parts)


def _choices(
    name: Name, marks: list[Point], room: Box, occupied: list[Box], dots: NDArray[np.float64]
) -> list[_Choice]:
    """The places a name may have, the cheapest first."""
    width, height = svg.text_width(name.text, LABEL_SIZE) + 4, LABEL_SIZE + 3
    others = [mark for mark in marks if mark != name.mark]
    boxes = [
        _box(name.mark, reach, 2 * pi * turn / DIRECTIONS, width, height)
        for reach in REACHES
        for turn in range(DIRECTIONS)
    ]
    found = [
        _choice(name, box, others, room, occupied, crossed)
        for box, crossed in zip(boxes, _crossed(boxes, dots), strict=True)
    ]
    return sorted(found, key=lambda choice: choice.cost)[:KEPT_CHOICES]


def _crossed(boxes: list[Box], dots: NDArray[np.float64]) -> list[int]:
    """How many dots of lines each box holds."""
    wider = np.array(boxes) + np.array([-AIR, 0.0, AIR, 0.0])
    left, top, right, bottom = wider.T[:, :, None]
    x, y = dots.T
    return [int(n) for n in ((left <= x) & (x <= right) & (top <= y) & (y <= bottom)).sum(axis=1)]


def _box(mark: Point, reach: float, angle: float, width: float, height: float) -> Box:
    """A box whose nearest point lies `reach` beyond the mark's air in this direction."""
    x = mark[0] + (MARK + reach) * cos(angle) + width / 2 * (cos(angle) if abs(cos(angle)) < 0.9 else _sign(cos(angle)))
    y = mark[1] + (MARK + reach) * sin(angle) + height / 2 * sin(angle)
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _choice(name: Name, box: Box, others: list[Point], room: Box, occupied: list[Box], crossed: int) -> _Choice:
    own = _around(name.mark, MARK)
    hidden = sum(_overlap(box, _around(mark, MARK)) for mark in others) + _overlap(box, own)
    cost = OVERLAP * (hidden + sum(_overlap(box, other) for other in occupied))
    cost += CROSSED * crossed
    outside = sum(max(0.0, gap) for gap in (room[0] - box[0], room[1] - box[1], box[2] - room[2], box[3] - room[3]))
    reach = _distance(box, name.mark)
    cost += OUTSIDE * outside + FAR * reach
    joined = None
    if reach > APART:
        near = (min(max(name.mark[0], box[0]), box[2]), min(max(name.mark[1], box[1]), box[3]))
        joined = (_towards(name.mark, near, 7.0), near)
        cost += JOINED + CUT * sum(_passes(joined, _around(mark, 6.0)) for mark in others)
    else:
        cost += MISREAD * sum(_distance(box, mark) < reach for mark in others)
    return _Choice(box, joined, cost, hidden > TOUCH or outside > 0.5)


def _beside(choice: _Choice, others: list[_Choice]) -> float:
    cost = 0.0
    for other in others:
        cost += 3 * OVERLAP * _overlap(choice.box, other.box)
        cost += CUT * (choice.joined is not None and _passes(choice.joined, other.box))
        cost += CUT * (other.joined is not None and _passes(other.joined, choice.box))
    return cost


def _sign(value: float) -> float:
    return 1.0 if value > 0 else -1.0


def _towards(start: Point, end: Point, step: float) -> Point:
    length = hypot(end[0] - start[0], end[1] - start[1]) or 1.0
    return (start[0] + (end[0] - start[0]) * step / length, start[1] + (end[1] - start[1]) * step / length)


def _around(centre: Point, half: float) -> Box:
    return (centre[0] - half, centre[1] - half, centre[0] + half, centre[1] + half)


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _distance(box: Box, point: Point) -> float:
    return hypot(max(box[0] - point[0], 0, point[0] - box[2]), max(box[1] - point[1], 0, point[1] - box[3]))


def _passes(line: tuple[Point, Point], box: Box) -> bool:
    """Whether a piece of line runs through a box."""
    (x1, y1), (x2, y2) = line
    enter, leave = 0.0, 1.0
    for start, step, low, high in ((x1, x2 - x1, box[0], box[2]), (y1, y2 - y1, box[1], box[3])):
        if step == 0.0:
            if not low <= start <= high:
                return False
            continue
        near, far = sorted(((low - start) / step, (high - start) / step))
        enter, leave = max(enter, near), min(leave, far)
    return enter <= leave


def _along(corners: list[Point], step: float = 6.0) -> list[Point]:
    """Points on a line through these corners, not farther apart than `step`."""
    dots = []
    for (x1, y1), (x2, y2) in pairwise(corners):
        count = max(1, int(max(abs(x2 - x1), abs(y2 - y1)) / step))
        dots += [(x1 + (x2 - x1) * i / count, y1 + (y2 - y1) * i / count) for i in range(count + 1)]
    return dots
