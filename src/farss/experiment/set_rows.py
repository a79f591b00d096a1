"""The rows of one set: read by their fields, and told apart by what they ask: those trained on, those measured."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass
from typing import Any

from farss.config import DataConfig
from farss.datasets.formats import TaskFormat, numbered, task_format
from farss.datasets.holding_out import held_out
from farss.datasets.records import Record
from farss.datasets.resolve import is_single
from farss.errors import DataError
from farss.experiment.fetched import Fetched
from farss.experiment.row_account import Account, say


@dataclass(frozen=True)
class TaskRow:
    """One row of the task.

    Attributes:
        number: its place in its set, from 1.
        row: as it was read.
        record: as it was understood.
        set: the name of the set, and the split where there are some.
        form: how the rows of the set are read.
    """

    number: int
    row: dict[str, Any]
    record: Record
    set: str
    form: TaskFormat

    @property
    def question(self) -> str:
        """What it asks; rows with one question are one for every division."""
        return self.record.question

    @property
    def gold(self) -> str | None:
        """The final answer that counts for exact match, or None if the row has none."""
        return self.form.gold(self.row)


@dataclass(frozen=True)
class Portion:
    """The rows of one use, and what became of the others."""

    rows: list[TaskRow]
    account: Account

    def own(self) -> Portion:
        """The same rows with an account of their own, for one more use."""
        return Portion(self.rows, copy.deepcopy(self.account))


@dataclass(frozen=True)
class Source:
    """One set of rows.

    Attributes:
        data: the settings that name it and say how it is read.
        divided: it has no rows apart to measure, so that a share of its questions is held out.
        fetched: what was read already.
    """

    data: DataConfig
    divided: bool
    fetched: Fetched

    def trainable(self) -> Portion:
        """All rows that may be trained on, in file order: none that is held out.

        Raises:
            DataError: if there are none, or one cannot be read and `data.on_bad_row` is "refuse"; it names the row.
        """
        data, whole = self.data, self.read(self.data.split)
        if data.test is not None:
            asked = {row.question for row in read_set(data, data.test, data.test_split, self.fetched).rows}
            kept = [row.question in asked for row in whole.rows]
        elif self.divided:
            kept = _kept_back(whole, data)
        else:
            return whole
        whole.account.held_out = sum(kept)
        rows = [row for row, out in zip(whole.rows, kept, strict=True) if not out]
        if not rows:
            raise nothing_to_train_on(data.task, sum(kept))
        if any(kept) and data.test is None:
            say(f"{data.task}: {sum(kept)} of {len(whole.rows)} rows are held out and not trained on (data.held_out)")
        return Portion(rows, whole.account)

    def measurable(self) -> Portion:
        """All its rows that are only measured, in file order.

        Raises:
            DataError: as `trainable`.
        """
        data = self.data
        if not self.divided:
            return self.read(data.test_split)
        whole = self.read(data.split)
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
            say(
                f"{data.task}: measured on the {len(rows)} of {len(whole.rows)} rows that training leaves out "
                "(data.held_out; 1 measures all, if none was trained on)"
            )
        return Portion(rows, whole.account)

    def read(self, split: str) -> Portion:
        """As `read_set`, of this set."""
        return read_set(self.data, self.data.task, split, self.fetched)


def task_form(data: DataConfig, name: str | None = None) -> TaskFormat:
    """How the rows of the recipe's task, or of its named held-out set, are read."""
    return task_format(name or data.task, columns=data.columns)


def read_set(data: DataConfig, name: str, split: str, fetched: Fetched) -> Portion:
    """Every row of a split that can be read, in file order.

    Raises:
        DataError: if there are none, or one cannot be read and `data.on_bad_row` is "refuse"; it names the row.
    """
    how = (data.data_dir, data.subset, data.columns, data.on_bad_row)
    return fetched.once("set", lambda: _read(data, name, split, fetched), name, split, *how).own()


def _read(data: DataConfig, name: str, split: str, fetched: Fetched) -> Portion:
    form = task_form(data, name)
    found = fetched.rows(name, split, data_dir=data.data_dir, subset=data.subset)
    account = Account(_called(data, name, split), len(found))
    rows, unused = list[TaskRow](), Counter[str]()
    for number, row in enumerate(found, start=1):
        try:
            record = form.record(row)
        except DataError as error:
            placed = numbered(error, name, number)
            if data.on_bad_row == "refuse":
                raise placed from None
            account.skip(placed, account.set)
            continue
        unused.update(record.unused)
        rows.append(TaskRow(number, row, record, account.set, form))
    account.unused_fields = dict(unused)
    account.warn()
    if not rows:
        raise DataError("no row can be read", where=account.set, got=account.first_bad)
    return Portion(rows, account)


def _kept_back(whole: Portion, data: DataConfig) -> list[bool]:
    """Whether each row of a single file is held out; a single question is trained on, and measuring it is refused."""
    questions = [row.question for row in whole.rows]
    if data.held_out < 1 and len(set(questions)) == 1:
        if data.held_out:
            say(f"{data.task}: its only question is trained on, so none is left to measure")
        return [False] * len(questions)
    return held_out(questions, data.held_out, data.task)


def _called(data: DataConfig, name: str, split: str) -> str:
    """What tells a set from others in messages."""
    _, opens, part = split.partition("[")
    if is_single(name, data_dir=data.data_dir):
        return f"{name}{opens}{part}"
    subset = f", subset {data.subset}" if data.subset else ""
    return f"{name}{subset}, split {split}"


def nothing_to_train_on(where: str, held: int) -> DataError:
    """The refusal of a set of which every row is held out."""
    return DataError(
        "every row is held out, so none is left to train on",
        where=where,
        got=f"{held} rows",
        do="lower data.held_out, or take the rows of data.test out of the training rows",
    )
