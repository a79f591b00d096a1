"""The runs of a report as the page sees them: names, styles, estimates, and the best run of each method."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from farss.methods import METHODS, look_of
from farss.methods.look import Look, look_by_name
from farss.report.figures.marks import DASHES, Style, tone
from farss.report.numbers import Estimate, estimate, finite, rate

FULL = "full"
RANKING = ("KT_l", "KT", "K_p", "K")  # the first of these that was measured decides the order of runs


@dataclass(frozen=True)
class Run:
    """One run of the report.

    Args:
        record: the run's object in report.json.
        style: its look in every figure.
        name: method and learning rate, with the seed where seeds tell runs apart.
        method_label: the method's proper name, with the run folder where one method was trained differently in several.
        colour: `#rrggbb` of the method.
    """

    record: dict[str, Any]
    style: Style
    name: str
    method_label: str
    colour: str

    @property
    def plain(self) -> Style:
        """The method's own mark, without the filling that figures of all runs give its learning rate."""
        return Style(self.style.class_, self.style.shape)

    @property
    def id(self) -> str:
        """The run's identifier."""
        return str(self.record["id"])

    @property
    def method(self) -> str:
        """The method's key, and the variant of its settings where the recipe varied them."""
        return series(self.record)

    @property
    def full(self) -> bool:
        """Whether all weights were trained."""
        return self.record["method"] == FULL

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
    looks = looks_of(records)
    rates = learning_rates(records)
    several_rates = any(len({r.get("learning_rate") for r in records if series(r) == m}) > 1 for m in looks)
    several_seeds = len({r.get("seed") for r in records}) > 1
    found = []
    for record in records:
        look, value = looks[series(record)], finite(record.get("learning_rate"))
        place = str(record["id"]).partition("@")[2]
        method_label = with_variant(look.label, record.get("variant")) + (f" @{place}" if place else "")
        name = with_rate(method_label, value)
        if several_seeds and record.get("seed") is not None:
            name += f" · seed {record['seed']}"
        fill = rates.index(value) % len(DASHES) if several_rates and value in rates else 0
        found.append(Run(record, Style(tone(look.colour), look.mark, fill), name, method_label, look.colour))
    return found


def series(record: dict[str, Any]) -> str:
    """What has a name and a mark of its own: a method, or a variant of one."""
    return f"{record['method']} {record.get('variant') or ''}".rstrip()


def with_variant(label: str, variant: str | None) -> str:
    """A method's label with what its recipe varied: `FARSS, rank 16`."""
    return f"{label}, {variant}" if variant else label


def with_rate(label: str, *rates: float | None) -> str:
    """A method's label with the learning rates it was trained at, as people write them: `LoRA · 5e-4`."""
    known = sorted({value for value in rates if value is not None})
    return f"{label} · {', '.join(map(rate, known))}" if known else label


def looks_of(records: list[dict[str, Any]]) -> dict[str, Look]:
    """How each method is shown: as the report says, else as the method here does, else by its name; all different.

    Variants of one method have its label, and colours and marks of their own.

    Raises:
        ConfigError: if the report's look of a method is malformed.
    """
    found: dict[str, Look] = {}
    labels: dict[str, str] = {}
    for name, method in dict.fromkeys((series(r), str(r["method"])) for r in records):
        said = next((r["look"] for r in records if str(r["method"]) == method and r.get("look")), None)
        own = METHODS.get(method)
        look = (
            Look(said["label"], said["colour"], said["mark"]) if said else look_of(own) if own else look_by_name(method)
        )
        look = _apart(name, look, list(found.values()))
        found[name] = replace(look, label=labels.setdefault(method, look.label))
    return found


def _apart(method: str, look: Look, others: list[Look]) -> Look:
    taken, turn = {(other.colour, other.mark) for other in others}, 0
    while (look.colour, look.mark) in taken:
        spare = look_by_name(method, turn)
        look, turn = replace(look, colour=spare.colour, mark=spare.mark), turn + 1
    labels, number = {other.label for other in others}, 2
    first = look.label if look.label not in labels else look_by_name(method).label
    look = replace(look, label=first)
    while look.label in labels:
        look, number = replace(look, label=f"{first[:20]} {number}"), number + 1
    return look


def learning_rates(records: list[dict[str, Any]]) -> list[float]:
    """The different learning rates, ascending."""
    return sorted({v for r in records if (v := finite(r.get("learning_rate"))) is not None})


def reference(runs: list[Run]) -> Run | None:
    """The full fine-tuning that T is measured against: the one with the lowest loss on validation rows, or the task."""
    full = [r for r in runs if r.full]
    if full and all(r.validation_loss is not None for r in full):
        return min(full, key=lambda r: r.validation_loss or 0.0)
    losses = {}
    for run in runs:
        scores = run.record.get("scores") or {}
        found = [
            e.value for k, v in scores.items() if k.startswith("task/") and k.endswith("/loss") and (e := estimate(v))
        ]
        if run.full and found:
            losses[run.id] = sum(found) / len(found)
    best = min(losses, key=losses.__getitem__, default=None)
    return next((r for r in runs if r.id == best), None)


def ranking_measure(runs: list[Run]) -> str | None:
    """The measure that orders the runs: the first of `RANKING` that any run but full fine-tuning has."""
    candidates = [r for r in runs if not r.full] or runs
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
