"""Several models measured on the same questions, as aligned columns whose means can be resampled together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farss.errors import DataError, FarssError, NumericalError
from farss.evaluation.records import Measurement, question_key, row_key
from farss.maths.intervals import PairedBootstrap

Column = NDArray[np.float64]
Average = Callable[[str, Column], Any]
"""Mean of a column over the questions of a group: a float, or [resamples] of them."""
Statistic = Callable[[Average], Any]
"""A measure written once: with plain means it gives its value, with resampled means its replicates."""


class Undefined(FarssError):
    """A measure does not exist for these models; the message says why."""


class Panel:
    """Columns [N] per group of questions and model, the questions in one order for all models.

    A group is what is resampled together: "knowledge/<set>", "knowledge/<set>/accuracy", "knowledge/<set>/choice",
    "task/<name>" and "task/<name>/accuracy". The last three hold the questions that all models answered that way.

    `sets` and `tasks` name all knowledge sets and tasks; of the tasks, `answered` are those that any model answered,
    and `likely` those whose reference responses have a likelihood.

    Args:
        models: measurements by the names used in `column`; all with the same questions and rows, whose order is the
            first one's.
        bootstrap: number of resamples.
        seed: of the resampling.

    Raises:
        DataError: if the models were not asked the same, or tokenise answers differently.
    """

    def __init__(self, models: Mapping[str, Measurement], *, bootstrap: int = 2000, seed: int = 0) -> None:
        self.models = tuple(models)
        first = next(iter(models.values()))
        self.sets = tuple(dict.fromkeys(sample.set for sample in first.knowledge))
        everything = [sample for measured in models.values() for sample in measured.task]
        self.tasks = tuple(dict.fromkeys(sample.task for sample in first.task))
        self.answered = tuple(dict.fromkeys(s.task for s in everything if s.correct is not None))
        self.likely = tuple(dict.fromkeys(s.task for s in everything if s.loss is not None))
        self._columns: dict[tuple[str, str, str], Column] = {}
        self._sizes: dict[str, int] = {}
        knowledge = _aligned({name: {question_key(s): s for s in m.knowledge} for name, m in models.items()})
        rows = _aligned({name: {row_key(s): s for s in m.task} for name, m in models.items()})
        for chosen in self.sets:
            asked = {name: [s for s in samples if s.set == chosen] for name, samples in knowledge.items()}
            group = f"knowledge/{chosen}"
            self._add(group, "total", {n: [s.log_prob * s.tokens for s in ss] for n, ss in asked.items()})
            self._add(group, "tokens", {n: [s.tokens for s in ss] for n, ss in asked.items()})
            self._add_answered(f"{group}/accuracy", {n: [s.correct for s in ss] for n, ss in asked.items()})
            self._add_answered(f"{group}/choice", {n: [s.choice for s in ss] for n, ss in asked.items()})
        for task in self.tasks:
            held = {name: [s for s in samples if s.task == task] for name, samples in rows.items()}
            if all(s.loss is not None for ss in held.values() for s in ss):
                self._add(f"task/{task}", "loss", {n: [s.loss for s in ss] for n, ss in held.items()})
                self._add(f"task/{task}", "tokens", {n: [s.tokens for s in ss] for n, ss in held.items()})
            self._add_answered(f"task/{task}/accuracy", {n: [s.correct for s in ss] for n, ss in held.items()})
        self._require_equal_tokens()
        self._bootstrap = PairedBootstrap(self._sizes, bootstrap, seed)

    def _add(self, group: str, name: str, values: dict[str, list[Any]]) -> None:
        for model, column in values.items():
            self._columns[group, name, model] = np.asarray(column, dtype=np.float64)
            self._sizes[group] = len(column)

    def _add_answered(self, group: str, values: dict[str, list[bool | None]]) -> None:
        answered = [i for i, row in enumerate(zip(*values.values(), strict=True)) if None not in row]
        if answered:
            self._add(group, "right", {model: [column[i] for i in answered] for model, column in values.items()})

    def _require_equal_tokens(self) -> None:
        for (group, name, model), column in self._columns.items():
            if name == "tokens" and not np.array_equal(column, self._columns[group, name, self.models[0]]):
                raise DataError(
                    "the models split the same answers into different tokens, so likelihoods cannot be paired",
                    where=group,
                    got=f"{self.models[0]} and {model}",
                )

    def has(self, group: str) -> bool:
        """Whether any question of the group was answered by all models."""
        return group in self._sizes

    def column(self, group: str, name: str, model: str) -> Column:
        """[N] float64, one entry per question of the group.

        Raises:
            Undefined: if no question of the group was answered by all models, or the model is not there.
        """
        if (group, name, model) not in self._columns:
            if model not in self.models:
                raise Undefined(f"there is no {model} run to compare with")
            raise Undefined(f"{group} was not measured on all models")
        return self._columns[group, name, model]

    def estimate(self, statistic: Statistic) -> tuple[dict[str, float | None] | None, str | None]:
        """A statistic with its 95 % interval, and the reason where one of them is missing.

        Returns:
            ({"value", "low", "high"}, None); the same with both ends None, and a reason, where the statistic is
            undefined on too many resamples; or (None, reason) where it has no value.
        """
        try:
            value = self.value(statistic)
        except (Undefined, NumericalError) as error:
            return None, reason(error)
        return self.interval(value, self.replicates(statistic))

    def value(self, statistic: Statistic) -> float:
        """A statistic on the questions as they are.

        Raises:
            Undefined, NumericalError: if it does not exist for these models.
        """
        found = float(statistic(lambda _, column: float(column.mean())))
        if not math.isfinite(found):
            raise NumericalError("the measure is not finite", got=found)
        return found

    def replicates(self, statistic: Statistic) -> Column:
        """[resamples] float64, a statistic on every resample; NaN where it is undefined."""
        return np.asarray(statistic(self._bootstrap.means), dtype=np.float64)

    def interval(self, value: float, replicates: Column) -> tuple[dict[str, float | None], str | None]:
        """A value with its 95 % interval; both ends None, and why, where too many replicates are undefined."""
        try:
            return {**self._bootstrap.interval(value, replicates).to_mapping()}, None
        except NumericalError as error:
            return {"value": value, "low": None, "high": None}, f"no interval: {reason(error)}"


def reason(error: FarssError) -> str:
    """Why a measure, or its interval, is missing, in one line."""
    return f"{error.what} ({error.where})" if error.where is not None else error.what


def _aligned(samples: dict[str, dict[tuple[str, str], Any]]) -> dict[str, list[Any]]:
    order = list(next(iter(samples.values())))
    for name, found in samples.items():
        if found.keys() != set(order):
            odd = min(found.keys() ^ set(order))
            raise DataError("the models were asked different questions", where=name, got=f"one has no pair: {odd}")
    return {name: [found[key] for key in order] for name, found in samples.items()}
