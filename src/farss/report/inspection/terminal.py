"""An inspection on a terminal: layers, boundary, stability and cost, in 100 columns."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from farss.amounts import duration, size
from farss.report.findings import plain
from farss.report.inspection import words
from farss.report.numbers import MISSING, count, decimal, finite, share

MOST_LAYERS = 16


def print_inspection(report: dict[str, Any], console: Console | None = None) -> None:
    """Print what matters of an inspection.

    Args:
        report: the content of inspect.json.
        console: where to; a new console on standard output by default.
    """
    console = console or Console()
    for name, value in words.facts(report):
        console.print(Text(f"{name}: {plain(value)}"))
    console.print()
    console.print(_layers(report))
    console.print()
    for sentence in (*words.boundary_sentences(report), words.stability_sentence(report)):
        console.print(Text(plain(sentence)))
    console.print()
    console.print(_costs(report))
    console.print()
    console.print(Text(_account(report), style="dim"))
    for warning in report["warnings"]:
        console.print(Text(f"warning: {warning}", style="bold"))


def _layers(report: dict[str, Any]) -> Table:
    rows = report["layers"]
    kept = rows
    if len(rows) > MOST_LAYERS:
        step = (len(rows) - 1) / (MOST_LAYERS - 1)
        kept = [rows[round(i * step)] for i in range(MOST_LAYERS)]
    left_out = f"{len(kept)} of {len(rows)} layers; all are in inspect.json" if len(kept) < len(rows) else None
    carried = f"{share(report['score_share'])}\nof score"
    table = _table("layer", "importance", "top-5\nweights", "top-5\nstates", carried, "halves\nagree", "chance")
    table.caption, table.caption_justify = left_out, "left"
    for row in kept:
        numbers = (row[key] for key in ("energy_weights", "energy_inputs", "held_share", "overlap", "chance"))
        cells = (MISSING if finite(value) is None else decimal(value, 2) for value in numbers)
        table.add_row(f"{row['layer']} {row['region']}", f"{row['importance']:.1e}", *cells)
    return table


def _costs(report: dict[str, Any]) -> Table:
    table = _table("rank", "trained parameters", "of the model", "adapter", "as plain LoRA")
    for row in report["costs"]:
        sizes = (size(row["adapter_bytes"]), size(row["exported_bytes"]))
        rank = "the plan" if row["rank"] is None else str(row["rank"])
        table.add_row(rank, count(row["trainable_params"]), share(row["share"]), *sizes)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    return table


def _account(report: dict[str, Any]) -> str:
    predicted, measured = report["predicted"], report["measured"]
    made = f"{measured['decomposed']} of {report['modules']} weights were not in the cache"
    if measured["restored"]:
        made += f", {measured['restored']} were looked at by an interrupted call, whose time is not counted"
    if measured["restored_rows"]:
        made += f", {measured['restored_rows']} examples were read by an interrupted call, whose time is not counted"
    memory = f"peak memory {size(measured['peak_bytes'])} ({size(predicted['peak_bytes'])} predicted)"
    took, foreseen = duration(measured["seconds"]["total"]), duration(predicted["seconds"]["total"])
    times = f"{took} ({foreseen} predicted, nothing cached)"
    return f"{memory}, {times}, {made}"
