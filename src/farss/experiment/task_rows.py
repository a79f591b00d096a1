"""The rows of a recipe's task: read by their fields, told apart by what they ask, and shared out among their uses.

No question is in two of training, validation and held-out rows where farss makes the division itself: of a single
file, for validation, and where `data.test` names the held-out rows.
"""

from __future__ import annotations

import hashlib
import random
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from farss.config import DataConfig, Recipe
from farss.datasets.formats import TaskFormat, numbered, task_format
from farss.datasets.holding_out import held_out
from farss.datasets.records import Record
from farss.datasets.resolve import is_single, lists_split, load_rows
from farss.errors import DataError
from farss.experiment.validation import hold_out, require_apart, sample_apart
from farss.model.encoding import Limit, RowsWarning, report_lengths


@dataclass(frozen=True)
class TaskRow:
    """One row of the task.

    Attributes:
        number: its place in its set, from 1.
        row: as it was read.
        record: as it was understood.
    """

    number: int
    row: dict[str, Any]
    record: Record

    @property
    def question(self) -> str:
        """What it asks; rows with one question are one for every division."""
        return self.record.question


@dataclass
class Account:
    """What became of the rows of one set, JSON-ready by `summary`.

    Attributes:
        set: the name, and the split where there are some.
        read: rows of the set.
        bad: rows left out because they could not be read or rendered.
        first_bad: the first of them, and why.
        held_out: rows that are only measured.
        validation: rows that choose between trials.
        used: rows put to the use that is accounted for.
        left_out: rows of which no learned token fits in `data.max_length`.
        cut: rows whose answer lost its end to it.
        shortest: the fewest tokens that a row left out reads before it learns.
        unused_fields: fields that nothing reads, each with the number of its rows.
        sha256: of the questions of the rows used.
    """

    set: str
    read: int = 0
    bad: int = 0
    first_bad: str | None = None
    held_out: int = 0
    validation: int = 0
    used: int = 0
    left_out: int = 0
    cut: int = 0
    shortest: int = 0
    unused_fields: dict[str, int] = field(default_factory=dict)
    sha256: str = ""

    def skip(self, error: DataError) -> None:
        """Count a row that is left out."""
        self.bad += 1
        self.first_bad = self.first_bad or f"{error.where}: {error.what}"

    def use(self, rows: Sequence[TaskRow]) -> None:
        """Note which rows are used."""
        self.used = len(rows)
        text = "\n".join(row.question for row in rows)
        self.sha256 = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def summary(self) -> dict[str, Any]:
        """The account for a result."""
        return {name: value for name, value in vars(self).items() if name != "shortest"}

    def finish(self, limit: Limit) -> None:
        """Say how many rows did not fit and how many were cut, in one line each.

        Raises:
            DataError: if no row is left.
        """
        report_lengths(self.used, self.left_out, self.cut, self.shortest, limit)
        if not self.used:
            raise DataError("no row is left", where=self.set, got=self.first_bad)

    def warn(self) -> None:
        """Say in one line each what was left out and what nothing reads."""
        if self.bad:
            _say(f"{self.set}: {self.bad} of {self.read} rows left out, the first: {self.first_bad}")
        if self.unused_fields:
            named = ", ".join(f"{name} ({count})" for name, count in self.unused_fields.items())
            _say(f"{self.set}: fields that nothing reads, with their rows: {named}")


@dataclass(frozen=True)
class Portion:
    """The rows of one use, and what became of the others."""

    rows: list[TaskRow]
    account: Account


def task_form(data: DataConfig, name: str | None = None) -> TaskFormat:
    """How the rows of the recipe's task, or of its named held-out set, are read."""
    return task_format(name or data.task, columns=data.columns)


def training_portion(recipe: Recipe) -> Portion:
    """The rows to train on: a seeded sample of `data.train_rows`, or all that are not kept for something else.

    Raises:
        DataError: if there are none, or one cannot be read and `data.on_bad_row` is "refuse"; it names the row.
    """
    return divided_portions(recipe)[0] if recipe.select == "validation" else _training(recipe)


def held_out_portion(recipe: Recipe, most: int | None = None) -> Portion:
    """The rows that are measured, in file order, at most `most` of them or `eval.task_rows`.

    Raises:
        DataError: as `training_portion`.
    """
    portion = _all_held_out(recipe)
    rows = portion.rows[: most or recipe.eval.task_rows]
    portion.account.use(rows)
    return Portion(rows, portion.account)


def divided_portions(recipe: Recipe) -> tuple[Portion, Portion]:
    """Training rows and the validation rows that choose between trials.

    The latter are of the data set's own validation split where it is known to have one with rows that are not scored,
    else they are held out of the training rows.

    Raises:
        DataError: if there are too few rows, or as `training_portion`.
    """
    data = recipe.data
    scored = {row.question for row in _all_held_out(recipe).rows}  # all, whatever `eval.task_rows` asks
    chosen: list[TaskRow] = []
    account = Account(data.task)
    if not is_single(data.task, data_dir=data.data_dir) and lists_split(
        data.task, "validation", data_dir=data.data_dir
    ):
        split = _read(data, data.task, "validation")
        account = split.account
        chosen = sample_apart(split.rows, scored, wanted=recipe.validation_rows, seed=data.seed)
    if chosen:
        taken = {row.question for row in chosen}
        training = _training(recipe)
        rows = [row for row in training.rows if row.question not in taken]
    else:
        training = _trainable(data)
        rows, chosen = hold_out(
            training.rows,
            scored,
            wanted=recipe.validation_rows,
            limit=data.train_rows,
            seed=data.seed,
            where=data.task,
        )
    questions = {row.question for row in chosen}
    require_apart(questions, scored, "scored")
    require_apart(questions, {row.question for row in rows}, "trained on")
    training.account.validation = len(chosen)
    training.account.use(rows)
    account.use(chosen)
    return Portion(rows, training.account), Portion(chosen, account)


def _training(recipe: Recipe) -> Portion:
    portion, data = _trainable(recipe.data), recipe.data
    rows = portion.rows
    if data.train_rows is not None:
        if data.train_rows < 1:
            raise DataError("the number of rows must be at least 1", where=data.task, got=data.train_rows)
        random.Random(data.seed).shuffle(rows)
        rows = rows[: data.train_rows]
    portion.account.use(rows)
    return Portion(rows, portion.account)


def _trainable(data: DataConfig) -> Portion:
    """All rows that may be trained on, in file order: none that is held out."""
    whole = _read(data, data.task, data.split)
    if data.test is not None:
        asked = {row.question for row in _read(data, data.test, data.test_split).rows}
        kept = [row.question in asked for row in whole.rows]
    elif is_single(data.task, data_dir=data.data_dir):
        kept = _kept_back(whole, data)
    else:
        return whole
    whole.account.held_out = sum(kept)
    rows = [row for row, out in zip(whole.rows, kept, strict=True) if not out]
    if not rows:
        raise DataError(
            "every row is held out, so none is left to train on",
            where=data.task,
            got=f"{sum(kept)} rows",
            do="lower data.held_out, or take the rows of data.test out of the training rows",
        )
    if any(kept) and data.test is None:
        _say(f"{data.task}: {sum(kept)} of {len(whole.rows)} rows are held out and not trained on (data.held_out)")
    return Portion(rows, whole.account)


def _kept_back(whole: Portion, data: DataConfig) -> list[bool]:
    """Whether each row of a single file is held out; a single question is trained on, and measuring it is refused."""
    questions = [row.question for row in whole.rows]
    if data.held_out < 1 and len(set(questions)) == 1:
        if data.held_out:
            _say(f"{data.task}: its only question is trained on, so none is left to measure")
        return [False] * len(questions)
    return held_out(questions, data.held_out, data.task)


def _all_held_out(recipe: Recipe) -> Portion:
    data = recipe.data
    if data.test is not None:
        return _read(data, data.test, data.test_split)
    if not is_single(data.task, data_dir=data.data_dir):
        return _read(data, data.task, data.test_split)
    whole = _read(data, data.task, data.split)
    if not data.held_out:
        raise DataError(
            "no row is held out, so there is none to measure on",
            where=data.task,
            got="data.held_out: 0",
            do="name held-out rows with data.test, or set data.held_out (1 if nothing was trained on this file)",
        )
    kept = held_out([row.question for row in whole.rows], data.held_out, data.task)
    rows = [row for row, out in zip(whole.rows, kept, strict=True) if out]
    whole.account.held_out = len(rows)
    if data.held_out < 1:
        _say(
            f"{data.task}: measured on the {len(rows)} of {len(whole.rows)} rows that training leaves out "
            "(data.held_out; 1 measures all, if none was trained on)"
        )
    return Portion(rows, whole.account)


def _read(data: DataConfig, name: str, split: str) -> Portion:
    """Every row of a split that can be read, in file order."""
    form = task_form(data, name)
    found = load_rows(name, split, data_dir=data.data_dir, subset=data.subset)
    account = Account(name if is_single(name, data_dir=data.data_dir) else f"{name}, split {split}", len(found))
    rows, unused = list[TaskRow](), Counter[str]()
    for number, row in enumerate(found, start=1):
        try:
            record = form.record(row)
        except DataError as error:
            placed = numbered(error, name, number)
            if data.on_bad_row == "refuse":
                raise placed from None
            account.skip(placed)
            continue
        unused.update(record.unused)
        rows.append(TaskRow(number, row, record))
    account.unused_fields = dict(unused)
    account.warn()
    if not rows:
        raise DataError("no row can be read", where=account.set, got=account.first_bad)
    return Portion(rows, account)


def _say(text: str) -> None:
    warnings.warn(text, RowsWarning, stacklevel=2)
