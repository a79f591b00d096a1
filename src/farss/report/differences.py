"""Methods as the report compares them: all trainings of one together, differences corrected for their number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from farss.report.figures.marks import Style
from farss.report.numbers import Estimate, estimate, finite
from farss.report.runs import FULL, Run, ranking_measure, representatives, with_rate

MEASURES = ("KT_l", "frontier_area", "K_p", "T_l")


@dataclass(frozen=True)
class Compared:
    """One method of `differences`.

    Args:
        name: its key there.
        record: its object there.
        label: its usual spelling, with what tells it from others of the same method.
        style: its look in figures.
    """

    name: str
    record: dict[str, Any]
    label: str
    style: Style

    @property
    def seeds(self) -> int:
        """How many trainings stand for it."""
        return int(self.record["seeds"])

    def measure(self, key: str) -> Estimate | None:
        """The mean of a measure over its trainings, with an interval over questions and trainings."""
        return estimate(self.record.get(key))


@dataclass(frozen=True)
class Contrast:
    """Method `a` minus method `b` on one measure: the simultaneous interval and Holm's p-value."""

    a: Compared
    b: Compared
    found: Estimate
    p: float | None

    def __neg__(self) -> Contrast:
        """The same difference from the other side."""
        return Contrast(self.b, self.a, -self.found, self.p)


def compared_methods(report: dict[str, Any], runs: list[Run]) -> dict[str, Compared]:
    """The methods of the report's `differences` that have a run among these, by name; empty where there are none."""
    by_id = {run.id: run for run in runs}
    found = {}
    for name, record in ((report.get("differences") or {}).get("methods") or {}).items():
        trained = [by_id[i] for i in record["runs"] if i in by_id]
        if not trained:
            continue
        run = trained[0]
        one_rate = finite(record.get("learning_rate")) is not None
        style = run.style if one_rate else Style(run.style.class_, run.style.shape)
        found[name] = Compared(name, record, _label(name, trained), style)
    return found


def _label(name: str, trained: list[Run]) -> str:
    """Proper name and learning rates, and what else the group's name has: its folder, or a number."""
    run = trained[0]
    folder = name.removeprefix(run.method).partition(" @")[2]
    label = run.method_label if "@" in run.method_label or not folder else f"{run.method_label} @{folder}"
    return with_rate(label, *(r.rate for r in trained))


def contrasts(report: dict[str, Any], runs: list[Run]) -> dict[str, list[Contrast]]:
    """All pairs by measure, in the order of `MEASURES`."""
    methods = compared_methods(report, runs)
    measured = (report.get("differences") or {}).get("measures") or {}
    found = {}
    for measure in MEASURES:
        pairs = [
            Contrast(methods[row["a"]], methods[row["b"]], value, finite(row.get("p_holm")))
            for row in (measured.get(measure) or {}).get("pairs") or []
            if (value := estimate(row)) and row["a"] in methods and row["b"] in methods
        ]
        if pairs:
            found[measure] = pairs
    return found


def best(methods: list[Compared], measure: str) -> list[Compared]:
    """The methods that have a measure, the largest first."""
    known = [(found.value, method) for method in methods if (found := method.measure(measure))]
    return [method for _, method in sorted(known, key=lambda pair: -pair[0])]


def leader(methods: list[Compared], measure: str) -> Compared | None:
    """The best method that is not full fine-tuning, which the task is measured against; full if there is no other."""
    order = best(methods, measure)
    return next((method for method in order if method.record["method"] != FULL), order[0] if order else None)


def corrected_difference(report: dict[str, Any], a: Run, b: Run, measure: str) -> Estimate | None:
    """The difference between the methods two runs belong to, with its simultaneous interval; None where there is none.

    Args:
        report: the content of report.json.
        a: a run of the first method.
        b: a run of the second.
        measure: a key of `differences.measures`.
    """
    for pair in contrasts(report, [a, b]).get(measure, []):
        runs = [set(side.record["runs"]) for side in (pair.a, pair.b)]
        if a.id in runs[0] and b.id in runs[1]:
            return pair.found
        if b.id in runs[0] and a.id in runs[1]:
            return -pair.found
    return None


def estimate_of(report: dict[str, Any], run: Run, key: str) -> Estimate | None:
    """A measure of the run's method over all its seeds where it has several, else of the run."""
    for method in compared_methods(report, [run]).values():
        if method.seeds > 1 and (found := method.measure(key)):
            return found
    return run.measure(key)


def contestants(report: dict[str, Any], runs: list[Run]) -> list[Run]:
    """The run that stands for each method, the methods by what is known of them over all their seeds, best first."""
    key = ranking_measure(runs)

    def order(run: Run) -> float:
        found = estimate_of(report, run, key) if key else None
        return -found.value if found else float("inf")

    return sorted(representatives(runs), key=order)


def label_of(report: dict[str, Any], run: Run) -> str:
    """The label of the run's method with the learning rates of all trainings that `estimate_of` is the mean of."""
    for method in compared_methods(report, [run]).values():
        ids = set(method.record["runs"])
        rates = [finite(r.get("learning_rate")) for r in report.get("runs") or [] if r["id"] in ids]
        return with_rate(run.method_label, *rates)
    return with_rate(run.method_label, run.rate)
