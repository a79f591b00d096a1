"""`farss tasks`: data sets farss knows how to ask and score."""

from __future__ import annotations

import argparse
from typing import Any

from farss.cli.output import emit, emit_table

SUMMARY = "list the knowledge sets, tasks and benchmarks, one line each"
EXAMPLE = "farss tasks --data-dir data/"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where rows are counted."""
    parser.add_argument("--data-dir", metavar="DIR", help="also count the rows of each file in this data directory")


def act(arguments: argparse.Namespace) -> int:
    """Print every name that `farss eval --tasks` takes, and the sets of `farss glue`, with their kinds."""
    from farss.experiment.listing import list_tasks

    rows = list_tasks(arguments.data_dir)
    if arguments.json:
        return emit(arguments, rows, ())
    return emit_table(arguments, [row | {"rows": _words(row["rows"])} if "rows" in row else row for row in rows])


def _words(counts: dict[str, Any]) -> str:
    return ", ".join(f"{stem} {'missing' if count is None else f'{count:,}'}" for stem, count in counts.items())
