"""`farss compare FOLDER...`: runs, and models that were trained elsewhere, in one report."""

from __future__ import annotations

import argparse
from pathlib import Path

from farss.cli.output import print_run

SUMMARY = "put runs, and adapters or models that were trained elsewhere, into one report"
EXAMPLE = "farss compare runs/a runs/b my-adapter/ my-merged-model/ --out runs/all"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The folders."""
    parser.add_argument(
        "runs",
        metavar="FOLDER",
        nargs="+",
        help="folders of `farss run` or `farss demo`, at least one; folders of adapters and of fine-tuned models of "
        "the same base, which are measured as the first run was; or one report.json, whose page is written anew",
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for report.html and report.json")


def act(arguments: argparse.Namespace) -> int:
    """Write the joint report and print its table."""
    from farss.experiment.runs.compare import compare

    folder = Path(arguments.out)
    report = compare([Path(run) for run in arguments.runs], folder)
    return print_run(arguments, report, folder)
