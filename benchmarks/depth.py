"""The streamed engine's peak memory by depth, from figures of `benchmarks/init.py`: a table and a picture.

    python benchmarks/depth.py depth.json --plot streamed-depth.svg

The two forms (hidden states on disk, in memory) may have been measured in one run or in one run each.

Hidden states on disk must not grow with the depth at all; kept in memory they may grow by one boundary (a hidden state
of every calibration token) per layer.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from farss.report.figures import svg
from farss.report.figures.axes import Scale, frame
from farss.storage import write_atomically

CASES = {"streamed": "states on disk", "streamed-memory": "states in memory"}
TOLERANCE = 0.05
"""Of the shallowest model's peak, over all added layers."""

WIDTH, HEIGHT, LINE_HEIGHT = 560.0, 320.0, 15.0
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #444 } .grid { stroke: #ddd } .axis { stroke: #888 }
.curve { stroke-width: 2 } .streamed { stroke: #0072b2 } .streamed-memory { stroke: #d55e00 }
.weights { stroke: #999; stroke-dasharray: 5 4 }
"""

Point = tuple[int, float]


def peaks(runs: Sequence[dict[str, Any]], case: str) -> list[Point]:
    """(layers, peak bytes) of one case, by depth."""
    found = [(run["layers"], run["medians"][case]["peak_bytes"]) for run in runs if case in run["medians"]]
    return sorted(found)


def noted(runs: Sequence[dict[str, Any]], note: str) -> dict[int, float]:
    """Layers -> what every account of these layers notes alike."""
    accounts = [(run["layers"], account) for run in runs for rows in run["accounts"].values() for account in rows]
    return {layers: account[note] for layers, account in accounts if note in account}


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Peaks by depth, growth per added layer and what it may be, in Markdown."""
    weights, boundary = noted(runs, "weights_bytes"), noted(runs, "boundary_bytes")
    known = {case: dict(peaks(runs, case)) for case in CASES}
    shown = [case for case in CASES if known[case]]
    lines = ["| layers | weights | " + " | ".join(f"peak, {CASES[case]}" for case in shown) + " |"]
    lines.append("|---" * (len(shown) + 2) + "|")
    for layers in sorted(weights):
        cells = [f"{known[case][layers] / 1e9:.2f} GB" if layers in known[case] else "not measured" for case in shown]
        lines.append(f"| {layers} | {weights[layers] / 1e9:.2f} GB | " + " | ".join(cells) + " |")
    for case in shown:
        grown, allowed = growth(peaks(runs, case)), min(boundary.values()) * (case == "streamed-memory")
        least = min(peak for _, peak in peaks(runs, case))
        added = max(weights) - min(weights)
        slack = TOLERANCE * least / added
        verdict = "within" if grown <= allowed + slack else "MORE THAN"
        lines.append(f"\n{CASES[case]}: {grown / 1e6:.1f} MB more per added layer, {verdict} a boundary of "
                     f"{allowed / 1e6:.1f} MB and {TOLERANCE:.0%} of the peak over {added} layers "
                     f"({slack / 1e6:.1f} MB each)")  # fmt: skip
    return "\n".join(lines)


def growth(points: Sequence[Point]) -> float:
    """The steepest growth between two depths that follow each other, in bytes per layer."""
    return max((right[1] - left[1]) / (right[0] - left[0]) for left, right in pairwise(points))


def plot(runs: Sequence[dict[str, Any]]) -> str:
    """Peaks and the size of all weights by depth, as a picture of its own."""
    curves = {"weights": sorted(noted(runs, "weights_bytes").items())} | {c: peaks(runs, c) for c in CASES}
    curves = {name: points for name, points in curves.items() if points}
    names = CASES | {"weights": "all weights of the model"}
    depths = [layers for points in curves.values() for layers, _ in points]
    top = max(value for points in curves.values() for _, value in points) / 1e9
    x = Scale(0, max(depths) * 1.05, 44, WIDTH - 150)
    y = Scale(0, top * 1.1, HEIGHT - 42, 30)
    body = [svg.element("style", STYLE), svg.element("rect", width=WIDTH, height=HEIGHT, fill="#fff")]
    body.append(frame(x, y, x_label="layers", y_label="peak memory, GB"))
    lowest = 0.0
    for name, points in sorted(curves.items(), key=lambda curve: y(curve[1][-1][1] / 1e9)):
        places = [(x(layers), y(value / 1e9)) for layers, value in points]
        dots = [svg.element("circle", cx=cx, cy=cy, r=3, class_=name, fill="#fff") for cx, cy in places]
        body += [svg.polyline(places, class_=f"curve {name}"), *dots]
        lowest = max(places[-1][1] + 4, lowest + LINE_HEIGHT)  # curves that end together have their names apart
        body.append(svg.label(places[-1][0] + 8, lowest, names[name]))
    says = "; ".join(f"{names[n]}: " + ", ".join(f"{v / 1e9:.2f} GB at {d}" for d, v in p) for n, p in curves.items())
    return str(svg.picture(WIDTH, HEIGHT, "Peak memory of a streamed initialisation by depth", says, *body))


def main() -> None:
    """Print the table and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", type=Path, nargs="+", help="JSON of `benchmarks/init.py --layers N N ... --out`")
    parser.add_argument("--plot", type=Path, help="SVG file to write")
    options = parser.parse_args()
    runs = [run for file in options.figures for run in json.loads(file.read_text(encoding="utf-8"))["runs"]]
    single = [case for case in CASES if len(peaks(runs, case)) == 1]
    if single or not noted(runs, "weights_bytes") or any(run["layers"] is None for run in runs):
        files = ", ".join(map(str, options.figures))
        parser.error(f"{files}: not several depths of one form: run `benchmarks/init.py` with `--layers 4 8 16`")
    print(table(runs))
    if options.plot:
        picture = plot(runs)
        write_atomically(options.plot, lambda file: file.write_text(picture, encoding="utf-8"))


if __name__ == "__main__":
    main()
