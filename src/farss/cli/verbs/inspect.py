"""`farss inspect`: a model seen through a task, before anything is decided."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from farss.cli.options import ROWS, add_recipe_options, recipe_from
from farss.cli.output import emit, wide_console

SUMMARY = "look at a model through a task: importances, spectra, stability, a suggested boundary, costs; no training"
EXAMPLE = "farss inspect --model smollm2-135m --data gsm8k --data-dir DATA --out runs/inspect"
DEFAULT_OUT = Path("runs") / "inspect"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Model, data, and what bears on the plan that is inspected."""
    add_recipe_options(
        parser,
        (
            "--model",
            "--revision",
            "--dtype",
            "--device",
            "--data",
            "--data-dir",
            *ROWS,
            "--calibration-rows",
            "--calibration-order",
            "--max-length",
            "--rank",
            "--shallow-layers",
        ),
    )
    engines = "auto, resident (the model in memory) or streamed (one block of it at a time; for large models)"
    parser.add_argument("--engine", default="auto", choices=("auto", "resident", "streamed"), help=engines)
    text = f"folder for inspect.html and inspect.json (default {DEFAULT_OUT})"
    parser.add_argument("--out", metavar="DIR", default=str(DEFAULT_OUT), help=text)


def act(arguments: argparse.Namespace) -> int:
    """Inspect, and print the main numbers and where the page is."""
    from farss.experiment.inspection.inspecting import inspect
    from farss.report.inspection import print_inspection

    report = inspect(recipe_from(arguments), arguments.out, arguments.engine, announce=_announce)
    if arguments.json:
        return emit(arguments, report, ())
    print_inspection(report, wide_console())
    place = Path(arguments.out)
    print(f"\npage: {place / 'inspect.html'}\nfigures: {place / 'inspect.json'}")
    return 0


def _announce(predicted: dict[str, Any]) -> None:
    from farss.amounts import duration, size

    seconds = predicted["seconds"]
    parts = ", ".join(f"{name} {duration(seconds[name])}" for name in ("statistics", "decomposition", "scoring"))
    print(
        f"predicted: peak memory {size(predicted['peak_bytes'])} on {predicted['device']}, "
        f"{duration(seconds['total'])} for {predicted['tokens']:,} tokens ({parts}), "
        f"{predicted['engine']} engine",
        file=sys.stderr,
        flush=True,
    )
