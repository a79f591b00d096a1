"""The report on a terminal: base line, table and headline, in as many columns as there are; figures are never cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from farss.report.difference_table import p_value
from farss.report.differences import compared_methods, contrasts, leader
from farss.report.findings import headline, plain
from farss.report.numbers import MISSING, Estimate, decimal, estimate, finite, rate, signed
from farss.report.runs import Run, catalogue, ranked, trials
from farss.report.sets import score_key, sets_of

INTERVAL_COLUMNS = (("K_p", "prob. kept"), ("T_l", "task share"), ("KT_l", "balance"))
PAPER_COLUMNS = ("K", "T", "KT")
DROPPED_FIRST = ("area", "KT", "T", "K", "params", "T_l", "K_p")
"""The order in which columns give way to a narrow terminal; name, learning rate and balance always stay."""
NARROWEST_NAME = 12


@dataclass(frozen=True)
class Column:
    """One column of the table: its key, what it means (a second line of its head, or empty) and its cells."""

    key: str
    meaning: str
    cells: list[str]

    @property
    def measured(self) -> bool:
        """Whether any run has a value here."""
        return any(cell != MISSING for cell in self.cells)

    @property
    def width(self) -> int:
        """Terminal columns that its longest text takes."""
        return max(cell_len(text) for text in (self.key, self.meaning, *self.cells))


def columns(report: dict[str, Any]) -> list[Column]:
    """All columns that have anything to show, one cell per run, best first."""
    runs = ranked(catalogue(report))
    seeds = len({run.record.get("seed") for run in runs}) > 1
    found = [
        Column("method", "", [_named(run, seeds) for run in runs]),
        Column("lr", "", [MISSING if run.rate is None else rate(run.rate) for run in runs]),
        *(Column(k, meaning, [_with_interval(run.measure(k)) for run in runs]) for k, meaning in INTERVAL_COLUMNS),
        Column("area", "", [_alone(estimate(run.record.get("frontier_area"))) for run in runs]),
        *(Column(key, "", [_alone(run.measure(key)) for run in runs]) for key in PAPER_COLUMNS),
        Column("params", "", [_parameters(run) for run in runs]),
    ]
    return [column for column in found if column.measured or column.key == "method"]


def fitting(found: list[Column], width: int) -> tuple[list[Column], list[str]]:
    """The columns that fit whole, and the keys of those that had to give way (`DROPPED_FIRST`).

    Args:
        found: from `columns`.
        width: of the terminal. Names may be broken over lines, figures never are.
    """
    kept, dropped = list(found), []
    for key in DROPPED_FIRST:
        if _least_width(kept) <= width:
            break
        if key in {column.key for column in kept}:
            kept = [column for column in kept if column.key != key]
            dropped.append(key)
    return kept, dropped


def _least_width(found: list[Column]) -> int:
    widths = [min(column.width, NARROWEST_NAME) if column.key == "method" else column.width for column in found]
    return sum(widths) + len(widths) - 1


def table(report: dict[str, Any], width: int = 100) -> Table:
    """The main numbers of every run, best first, as a `rich` table of whole figures that fits `width` columns.

    K_p, T_l and KT_l are likelihood measures with their 95 % intervals; K, T and KT are the paper's accuracy ratios.
    """
    result = _bare_table()
    kept, _ = fitting(columns(report), width)
    second = any(column.meaning for column in kept)
    for column in kept:
        head = f"{column.key}\n{column.meaning}" if second else column.key
        name = column.key == "method"
        align = "left" if name or column.key == "lr" else "right"
        result.add_column(
            head, justify=align, overflow="fold", no_wrap=not name, min_width=None if name else column.width
        )
    for row in zip(*(column.cells for column in kept), strict=True):
        result.add_row(*(Text(cell) for cell in row))  # Text, so that brackets are not read as markup
    return result


def _bare_table() -> Table:
    return Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold", show_edge=False)


def _named(run: Run, seeds: bool) -> str:
    seed = run.record.get("seed")
    return f"{run.method_label} seed {seed}" if seeds and seed is not None else run.method_label


def _parameters(run: Run) -> str:
    found = finite(run.record.get("trainable_params"))
    return MISSING if found is None else _short_count(found)


def _with_interval(found: Estimate | None) -> str:
    if found is None:
        return MISSING
    if found.low is None or found.high is None:
        return decimal(found.value, 2)
    return f"{decimal(found.value, 2)} [{_bare(found.low)} {_bare(found.high)}]"


def _bare(value: float) -> str:
    text = decimal(value, 2)
    return text.replace("0.", ".", 1) if abs(value) < 0.995 else text


def _alone(found: Estimate | None) -> str:
    return MISSING if found is None else decimal(found.value, 2)


def _short_count(value: float) -> str:
    for unit, scale in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g}{unit}"
    return f"{value:.0f}"


def budget_line(report: dict[str, Any]) -> str:
    """The trainable parameters asked for, and what each method has; empty where ranks were what was equal."""
    missed = {run.method_label: run for run in catalogue(report) if run.missed is not None}
    if not missed:
        return ""
    wanted = sorted({run.record["budget"]["requested"] for run in missed.values()})
    parts = [
        f"{label} {run.record['budget']['realised']:,} ({signed(100 * (run.missed or 0), 1)} %)"
        for label, run in missed.items()
    ]
    return f"budget {' or '.join(f'{w:,}' for w in wanted)} trainable parameters: {' · '.join(parts)}"


def difference_table(report: dict[str, Any]) -> Table | None:
    """The best method against each other one in the first measure there is; None where no methods were compared."""
    runs = catalogue(report)
    measure, pairs = next(iter(contrasts(report, runs).items()), ("", []))
    top = leader(list(compared_methods(report, runs).values()), measure)
    if top is None:
        return None
    result = _bare_table()
    heads = (f"{top.label} minus", f"difference in {measure}", "p (Holm)", "seeds", "")
    for number, head in enumerate(heads):
        figures = 0 < number < len(heads) - 1
        result.add_column(head, justify="right" if figures else "left", overflow="fold", no_wrap=figures)
    for pair in sorted((p if p.a == top else -p for p in pairs if top in (p.a, p.b)), key=lambda p: p.found.value):
        ends = [signed(v) for v in pair.found.ends()[1:]]
        cells = (
            pair.b.label,
            f"{signed(pair.found.value)} [{' '.join(ends)}]",
            MISSING if pair.p is None else p_value(pair.p),
            f"{pair.a.seeds} / {pair.b.seeds}",
            "differs" if pair.found.excludes_zero else "not separable",
        )
        result.add_row(*(Text(cell) for cell in cells))
    return result


def difference_line(report: dict[str, Any]) -> str:
    """How many pairs of methods differ, by measure, and what their intervals are."""
    counted = [
        f"{measure.replace('_area', ' area')} {sum(p.found.excludes_zero for p in pairs)} of {len(pairs)}"
        for measure, pairs in contrasts(report, catalogue(report)).items()
    ]
    return f"intervals hold for all pairs of a measure together (95 %); pairs that differ: {' · '.join(counted)}"


def base_line(report: dict[str, Any]) -> str:
    """The base model's scores in one line."""
    scores = (report.get("base") or {}).get("scores") or {}
    name = (report.get("model") or {}).get("name") or "model"
    units = {"loss": " nats/token", "accuracy": "", "log_prob": "", "choice": ""}
    parts, labels = [], sets_of(report)
    for key, raw in scores.items():
        found, (_, subject, what) = estimate(raw), score_key(key)
        if found is not None:
            parts.append(
                f"{labels.get(subject, subject)} {what.replace('_', '-')} {decimal(found.value)}{units.get(what, '')}"
            )
    return f"base {name}: {' · '.join(parts)}" if parts else f"base {name}: not measured"


def print_report(report: dict[str, Any], console: Console | None = None) -> None:
    """Print the base line, the budget if there is one, the table, what differs and the headline.

    Args:
        report: the content of report.json.
        console: where to; a new console on standard output by default.
    """
    console = console or Console()
    console.print(Text(base_line(report), style="dim"))
    if budget := budget_line(report):
        console.print(Text(budget, style="dim"))
    console.print()
    console.print(table(report, console.width))
    if dropped := fitting(columns(report), console.width)[1]:
        console.print(Text(f"too narrow for {', '.join(dropped)}: all are in report.json and report.html", "dim"))
    if left := len(trials(report)) - len(catalogue(report)):
        console.print(Text(f"chosen by their loss on validation rows; not chosen, but in the report: {left}", "dim"))
    console.print()
    if (found := difference_table(report)) is not None:
        console.print(found)
        console.print(Text(difference_line(report), style="dim"))
        console.print()
    console.print(Text(plain(headline(report)), style="bold"))
