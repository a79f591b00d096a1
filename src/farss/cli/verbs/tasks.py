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
    """Print every name that `farss eval --tasks` or `farss glue --tasks` takes, with its kind."""
    from farss.experiment.listing import list_tasks

    rows = list_tasks(arguments.data_dir)
    if arguments.json:
        return emit(arguments, rows, ())
    if arguments.data_dir is not None:
        rows = [
            {"name": row["name"], "kind": row["kind"], "rows": _words(row["rows"]), "summary": row["summary"]}
            for row in rows
        ]
    return emit_table(arguments, rows)


def _words(counts: dict[str, Any]) -> str:
    """Split and rows of each file; the last folder's name too where two files have one split's name."""
    splits = [stem.rpartition("/")[2] for stem in counts]
    names = [split if splits.count(split) == 1 else stem for stem, split in zip(counts, splits, strict=True)]
    numbers = ["missing" if count is None else f"{count:,}" for count in counts.values()]
    return ", ".join(f"{name} {number}" for name, number in zip(names, numbers, strict=True)) or "embedded"
