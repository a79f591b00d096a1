"""The runs of a report as the page sees them: names, styles, estimates, and the best run of each method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from farss.report.figures.marks import DASHES, SHAPES, Style
from farss.report.numbers import Estimate, estimate, finite, rate

FULL = "full"
KNOWN_METHODS = {  # in the order of the colours, which so stay the same from report to report
    "farss": "FARSS",
    "full": "full fine-tuning",
    "lora": "LoRA",
    "pissa": "PiSSA",
    "milora": "MiLoRA",
    "farss_init": "FARSS-init",
    "all_high": "all-high",
    "fixed_rank": "fixed-rank",
}
SLOTS = len(KNOWN_METHODS)
RANKING = ("KT_l", "KT", "K_p", "K")  # the first of these that was measured decides the order of runs


@dataclass(frozen=True)
class Run:
    """One run of the report.

    Args:
        record: the run's object in report.json.
        style: its look in every figure.
        name: method, with learning rate and seed where they tell runs apart.
        method_label: the method's label alone.
    """

    record: dict[str, Any]
    style: Style
    name: str
    method_label: str

    @property
    def id(self) -> str:
        """The run's identifier."""
        return str(self.record["id"])

    @property
    def method(self) -> str:
        """The method's key."""
        return str(self.record["method"])

    @property
    def rate(self) -> float | None:
        """The learning rate."""
        return finite(self.record.get("learning_rate"))

    @property
    def selected(self) -> bool:
        """Whether the run is part of comparisons: not where another trial of its method and seed was chosen."""
        return self.record.get("selected") is not False

    @property
    def validation_loss(self) -> float | None:
        """The loss on the rows that trials are chosen by; None where nothing was chosen by them."""
        return finite(self.record.get("validation_loss"))

    @property
    def missed(self) -> float | None:
        """By how much its trainable parameters miss their budget, as a share of it; None without a budget."""
        budget = self.record.get("budget") or {}
        requested, realised = finite(budget.get("requested")), finite(budget.get("realised"))
        return realised / requested - 1 if requested and realised is not None else None

    def measure(self, key: str) -> Estimate | None:
        """An entry of `compared`, for example `K_p`."""
        return estimate((self.record.get("compared") or {}).get(key))

    def score(self, key: str) -> Any:
        """An entry of `scores`: an object with value, stderr and n, or None."""
        return (self.record.get("scores") or {}).get(key)


def catalogue(report: dict[str, Any]) -> list[Run]:
    """The runs that comparisons are made of, in the report's order, with their names and styles."""
    return [run for run in trials(report) if run.selected]


def trials(report: dict[str, Any]) -> list[Run]:
    """All runs in the report's order, those that another trial was chosen over too."""
    records = report.get("runs") or []
    rates = learning_rates(records)
    styles = _styles([str(r["method"]) for r in records])
    several_rates = any(len({r.get("learning_rate") for r in records if r["method"] == m}) > 1 for m in styles)
    several_seeds = len({r.get("seed") for r in records}) > 1
    found = []
    for record in records:
        slot, shape = styles[str(record["method"])]
        value = finite(record.get("learning_rate"))
        method_label = _method_label(records, str(record["method"]))
        name = method_label
        if several_rates and value is not None:
            name += f" {rate(value)}"
        if several_seeds and record.get("seed") is not None:
            name += f" seed {record['seed']}"
        fill = rates.index(value) % len(DASHES) if value in rates else 0
        found.append(Run(record, Style(slot, shape, fill), name, method_label))
    return found


def learning_rates(records: list[dict[str, Any]]) -> list[float]:
    """The different learning rates, ascending."""
    return sorted({v for r in records if (v := finite(r.get("learning_rate"))) is not None})


def _method_label(records: list[dict[str, Any]], method: str) -> str:
    """The method's usual spelling; for a method unknown here the label its runs share, else its key."""
    if method in KNOWN_METHODS:
        return KNOWN_METHODS[method]
    labels = {str(r.get("label") or method) for r in records if r["method"] == method}
    return labels.pop() if len(labels) == 1 else method


def reference(runs: list[Run]) -> Run | None:
    """The full fine-tuning that T is measured against: the one with the lowest loss on validation rows, or the task."""
    full = [r for r in runs if r.method == FULL]
    if full and all(r.validation_loss is not None for r in full):
        return min(full, key=lambda r: r.validation_loss or 0.0)
    losses = {}
    for run in runs:
        scores = run.record.get("scores") or {}
        found = [
            e.value for k, v in scores.items() if k.startswith("task/") and k.endswith("/loss") and (e := estimate(v))
        ]
        if run.method == FULL and found:
            losses[run.id] = sum(found) / len(found)
    best = min(losses, key=losses.__getitem__, default=None)
    return next((r for r in runs if r.id == best), None)


def _styles(methods: list[str]) -> dict[str, tuple[int, str]]:
    slots = {m: list(KNOWN_METHODS).index(m) for m in methods if m in KNOWN_METHODS}
    free = [i for i in range(SLOTS) if i not in slots.values()]
    for method in dict.fromkeys(methods):
        if method not in slots:
            slots[method] = free.pop(0) if free else len(slots) % SLOTS
    return {m: (slot, SHAPES[slot % len(SHAPES)]) for m, slot in slots.items()}


def ranking_measure(runs: list[Run]) -> str | None:
    """The measure that orders the runs: the first of `RANKING` that any run but full fine-tuning has."""
    candidates = [r for r in runs if r.method != FULL] or runs
    return next((m for m in RANKING if any(r.measure(m) for r in candidates)), None)


def ranked(runs: list[Run]) -> list[Run]:
    """The runs by falling ranking measure; those without it last, in the report's order."""
    key = ranking_measure(runs)

    def order(run: Run) -> float:
        found = run.measure(key) if key else None
        return -found.value if found else float("inf")

    return sorted(runs, key=order)


def representatives(runs: list[Run]) -> list[Run]:
    """One run per method, best first: of the learning rate best on average over seeds, the run nearest that average.

    Where learning rates were chosen by validation they are not chosen again: all seeds' runs are one group.
    """
    key = ranking_measure(runs)
    if key is None:
        return []
    chosen = []
    for method in dict.fromkeys(r.method for r in runs):
        groups: dict[float | None, list[tuple[float, Run]]] = {}
        for run in runs:
            if run.method == method and (found := run.measure(key)):
                compared = run.rate if run.validation_loss is None else None
                groups.setdefault(compared, []).append((found.value, run))
        if groups:
            best = max(groups.values(), key=_mean)
            middle = _mean(best)
            chosen.append(min(best, key=lambda pair: abs(pair[0] - middle))[1])
    return ranked(chosen)


def _mean(group: list[tuple[float, Run]]) -> float:
    return sum(value for value, _ in group) / len(group)
