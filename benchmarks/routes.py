"""Time and accuracy of the routes of decomposition, against float64 `gesdd` on the CPU.

Every route decomposes the same seeded random weight (Gaussian with one direction far above the rest), with its checks;
a route that missed its bound shows what replaced it. Seconds are the median of `--repeats`, after one run of each route
that is not timed; the ratio compares with `gesdd` on the same device. Distances are sines of the largest angle between
the subspaces of the 16 lowest, and the 16 highest, directions.

    python benchmarks/routes.py --shapes 576x576 576x1536 --out routes.json
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from farss.experiment.environment import device, versions
from farss.maths.choice import choose_route, sample_weight, timed
from farss.maths.routes import Route
from farss.storage import write_json

SHAPES = {"cpu": ["256x256", "576x576", "576x1536"], "cuda": ["4096x4096", "4096x11008"]}
DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "bfloat16")}
CHOSEN = 16


def distance(one: Tensor, two: Tensor) -> float:
    """The sine of the largest angle between the spans of two sets of orthonormal columns, [k, r] each."""
    return float(torch.linalg.matrix_norm(one - two @ (two.T @ one), ord=2))


def exact(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(sigma [k], basis [k, k] of the smaller side) by float64 LAPACK on the CPU."""
    wide = weight.shape[0] < weight.shape[1]
    tall = weight.cpu().double().T if wide else weight.cpu().double()
    _, sigma, Vh = torch.linalg.svd(tall, full_matrices=False)
    return sigma, Vh.T


def rows_of(weight: Tensor, repeats: int) -> list[dict[str, Any]]:
    """One row of the table per route, for one weight."""
    sigma, basis = exact(weight)
    low, high = slice(max(len(sigma) - CHOSEN, 0), None), slice(0, CHOSEN)
    rows = []
    for route in get_args(Route):
        spectrum, _ = timed(weight, route)
        kept = spectrum.basis.double()
        seconds = [timed(weight, route)[1] for _ in range(repeats)]
        rows.append(
            {
                "shape": list(weight.shape),
                "dtype": str(weight.dtype).removeprefix("torch."),
                "asked": route,
                "route": spectrum.route,
                "seconds": statistics.median(seconds),
                "repeats": seconds,
                "sigma_relative_error": float(((spectrum.sigma - sigma) / sigma).abs().max()),
                "lowest_distance": distance(kept[:, low], basis[:, low]),
                "highest_distance": distance(kept[:, high], basis[:, high]),
                "condition": float(sigma[0] / sigma[-1]),
            }
        )
    reference = next(row["seconds"] for row in rows if row["asked"] == "gesdd")
    return [row | {"ratio_to_gesdd": row["seconds"] / reference} for row in rows]


def shape_of(text: str) -> tuple[int, int]:
    """(m, n) of "MxN"."""
    rows, separator, columns = text.partition("x")
    if not (separator and rows.isdecimal() and columns.isdecimal() and int(rows) and int(columns)):
        raise argparse.ArgumentTypeError(f"a shape is written MxN, not {text!r}")
    return int(rows), int(columns)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shapes", type=shape_of, nargs="+", metavar="MxN", help="by default small ones on a CPU")
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=["float32"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    return parser.parse_args()


def main() -> None:
    """Measure, print and write."""
    options = arguments()
    kind = torch.device(options.device).type
    shapes = options.shapes or [shape_of(text) for text in SHAPES.get(kind, SHAPES["cpu"])]
    report: dict[str, Any] = {
        "device": device() | {"kind": kind, "threads": torch.get_num_threads()},
        "versions": versions(),
        "rows": [],
        "chosen": [],
    }
    print(", ".join(f"{key} {value}" for key, value in report["device"].items()))
    print("versions:", ", ".join(f"{name} {version}" for name, version in report["versions"].items()))
    heads = f"{'seconds':>10}{'sigma err':>11}{'lowest 16':>11}{'highest 16':>12}{'/ gesdd':>9}"
    print(f"\n{'shape':14}{'dtype':10}{'route':22}{heads}")
    for shape in shapes:
        for name in options.dtypes:
            weight = sample_weight(*shape, torch.float32, "cpu").to(options.device, DTYPES[name])
            for row in rows_of(weight, options.repeats):
                report["rows"].append(row)
                figures = f"{row['seconds']:10.4f}{row['sigma_relative_error']:11.1e}{row['lowest_distance']:11.1e}"
                figures += f"{row['highest_distance']:12.1e}{row['ratio_to_gesdd']:9.3f}"
                print(f"{'x'.join(map(str, shape)):14}{name:10}{row['route']:22}{figures}", flush=True)
            chosen = choose_route(shape, options.device, DTYPES[name])
            report["chosen"].append({"shape": list(shape), "dtype": name, "route": chosen})
            print(f"{'':24}`auto` chooses {chosen}", flush=True)
    if options.out:
        write_json(options.out, report)
        print(f"figures in {options.out}")


if __name__ == "__main__":
    main()
