"""What verbs print: JSON for machines on standard output, or lines and tables for people."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

PIPED_WIDTH = 240
"""Columns of a table that no terminal shows."""


def emit(arguments: argparse.Namespace, result: Any, lines: Iterable[str]) -> int:
    """Print `result` as JSON if asked for, else the lines; return exit code 0."""
    if arguments.json:
        print(json.dumps(result, indent=1, default=str))
    else:
        for line in lines:
            print(line)
    return 0


def cut_lines(cuts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """What to say of texts that were longer than the model reads; nothing where there was none."""
    return [
        f"{name}: {found['cut']} of {found['texts']} texts are longer than the {found['window']} tokens that the model "
        "reads and lost their beginning"
        for name, found in cuts.items()
    ]


def validation_lines(measured: Mapping[str, Any] | None) -> list[str]:
    """What the losses on validation rows came to while training, in one line; none where none was measured."""
    if measured is None:
        return []
    best, kept = measured["best_step"], measured["kept_step"]
    lowest = dict(measured["losses"])[best]
    whose = "that of the adapter" if kept == best else f"the adapter is of step {kept}"
    early = "; stopped early" if measured["ended"] == "early_stopping" else ""
    return [f"validation loss: lowest {lowest:.3f} at step {best}, {whose}{early}"]


def emit_table(arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> int:
    """Print rows of equal keys as JSON if asked for, else as a table; return exit code 0."""
    if arguments.json:
        return emit(arguments, rows, ())
    table = Table(box=None, header_style="bold")
    for key in rows[0]:
        table.add_column(key, no_wrap=key == "name")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    wide_console().print(table)
    return 0


def wide_console() -> Console:
    """The console of standard output, wide where no terminal shows it: what reads lines wants whole ones."""
    console = Console()
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    return console


def print_run(arguments: argparse.Namespace, report: dict[str, Any], folder: Path) -> int:
    """Print a finished run: its table and where its files are; return exit code 0."""
    if arguments.json:
        return emit(arguments, report, ())
    from farss.report import print_report

    print_report(report, wide_console())
    print(f"\nreport: {folder / 'report.html'}\nfigures: {folder / 'report.json'}")
    return 0
