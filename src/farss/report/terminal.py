"""The report on a terminal: base line, table and headline, in 100 columns."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from farss.report.difference_table import p_value
from farss.report.differences import compared_methods, contrasts, leader
from farss.report.findings import headline, plain
from farss.report.numbers import MISSING, Estimate, decimal, estimate, finite, rate, signed
from farss.report.runs import Run, catalogue, ranked, trials

INTERVAL_COLUMNS = (("K_p", "prob. kept"), ("T_l", "task share"), ("KT_l", "balance"))
PAPER_COLUMNS = ("K", "T", "KT")


def table(report: dict[str, Any]) -> Table:
    """The main numbers of every run, best first, as a `rich` table that fits 100 columns.

    K_p, T_l and KT_l are likelihood measures with their 95 % intervals; K, T and KT are the paper's accuracy ratios.
    """
    result = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold", show_edge=False)
    result.add_column("method\n", overflow="fold", min_width=6)
    result.add_column("lr\n", no_wrap=True)
    for key, meaning in INTERVAL_COLUMNS:
        result.add_column(f"{key}\n{meaning}", justify="right", no_wrap=True)
    result.add_column("area\n", justify="right", no_wrap=True)
    for key in PAPER_COLUMNS:
        result.add_column(f"{key}\n", justify="right", no_wrap=True)
    result.add_column("params\n", justify="right", no_wrap=True)
    for run in ranked(catalogue(report)):
        result.add_row(*_row(run))
    return result


def _row(run: Run) -> list[Text]:
    learning_rate, area = run.rate, estimate(run.record.get("frontier_area"))
    parameters = finite(run.record.get("trainable_params"))
    seed = run.name.partition(" · seed ")[2]
    cells = [
        f"{run.method_label} seed {seed}" if seed else run.method_label,
        MISSING if learning_rate is None else rate(learning_rate),
        *(_with_interval(run.measure(key)) for key, _ in INTERVAL_COLUMNS),
        MISSING if area is None else decimal(area.value, 2),
        *(_alone(run.measure(key)) for key in PAPER_COLUMNS),
        MISSING if parameters is None else _short_count(parameters),
    ]
    return [Text(cell) for cell in cells]  # Text, so that brackets are not read as markup


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
    result = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold", show_edge=False)
    heads = (f"{top.label} minus", f"difference in {measure}", "p (Holm)", "seeds", "")
    for number, head in enumerate(heads):
        result.add_column(head, justify="right" if 0 < number < len(heads) - 1 else "left", overflow="fold")
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
    parts = []
    for key, raw in scores.items():
        found, (_, subject, what) = estimate(raw), [*key.split("/"), "", ""][:3]
        if found is not None:
            parts.append(f"{subject} {what.replace('_', '-')} {decimal(found.value)}{units.get(what, '')}")
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
    console.print(table(report))
    if left := len(trials(report)) - len(catalogue(report)):
        console.print(Text(f"chosen by their loss on validation rows; not chosen, but in the report: {left}", "dim"))
    console.print()
    if (found := difference_table(report)) is not None:
        console.print(found)
        console.print(Text(difference_line(report), style="dim"))
        console.print()
    console.print(Text(plain(headline(report)), style="bold"))
