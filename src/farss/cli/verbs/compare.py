"""`farss compare RUN...`: several run folders in one report."""

from __future__ import annotations

import argparse
from pathlib import Path

from farss.cli.output import print_run

SUMMARY = "put the runs of several run folders (same model, data and questions) into one report"
EXAMPLE = "farss compare runs/a runs/b --out runs/both"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run folders."""
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="folders made by `farss run` or `farss demo`; or one report.json, whose page is written anew",
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for report.html and report.json")


def act(arguments: argparse.Namespace) -> int:
    """Write the joint report and print its table."""
    from farss.experiment.runs.run import compare

    folder = Path(arguments.out)
    report = compare([Path(run) for run in arguments.runs], folder)
    return print_run(arguments, report, folder)
