"""The rows of a recipe's task, of one set or of several mixed, shared out among their uses.

No question is in two of training, validation and held-out rows where farss makes the division itself: of a single
file, for validation, where `data.test` names the held-out rows, and between sets that are mixed.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import zip_longest

from farss.config import DataConfig, MixedSet, Recipe
from farss.datasets.resolve import is_single, lists_split
from farss.errors import DataError
from farss.experiment.fetched import fetched_by, once
from farss.experiment.row_account import Account, say
from farss.experiment.set_rows import Portion, Source, TaskRow, nothing_to_train_on, read_set
from farss.experiment.validation import hold_out, require_apart, sample_apart


def training_portion(recipe: Recipe) -> Portion:
    """The rows to train on: a seeded sample of `data.train_rows`, or all that are not kept for something else.

    Rows of the sets in `data.mix` follow those of the task.

    Raises:
        DataError: if there are none, or one cannot be read and `data.on_bad_row` is "refuse"; it names the row.
    """
    if recipe.select == "validation":
        return divided_portions(recipe)[0]
    return once(recipe, "training rows", lambda: _training(recipe)).own()


def held_out_portion(recipe: Recipe, most: int | None = None) -> Portion:
    """The rows that are measured, in file order, at most `most` of them or `eval.task_rows`.

    Of several sets they come in turn, a row of each.

    Raises:
        DataError: as `training_portion`.
    """
    portion = _all_held_out(recipe)
    rows = portion.rows[: most or recipe.eval.task_rows]
    portion.account.use(rows)
    return Portion(rows, portion.account)


def divided_portions(recipe: Recipe) -> tuple[Portion, Portion]:
    """Training rows and the validation rows that choose between trials, which are the task's own.

    The latter are of the data set's own validation split where it is known to have one with rows that are not scored,
    else they are held out of the training rows.

    Raises:
        DataError: if there are too few rows, or as `training_portion`.
    """
    training, chosen = once(recipe, "divided rows", lambda: _divided(recipe))
    return training.own(), chosen.own()


def _divided(recipe: Recipe) -> tuple[Portion, Portion]:
    data = recipe.data
    scored = {row.question for row in _all_held_out(recipe).rows}  # all, whatever `eval.task_rows` asks
    chosen: list[TaskRow] = []
    account = Account(data.task)
    if not is_single(data.task, data_dir=data.data_dir) and lists_split(
        data.task, "validation", data_dir=data.data_dir
    ):
        split = read_set(data, data.task, "validation", fetched_by(recipe))
        account = split.account
        chosen = sample_apart(split.rows, scored, wanted=recipe.validation_rows, seed=data.seed)
    if chosen:
        taken = {row.question for row in chosen}
        training = _of_task(recipe, scored)
        rows = [row for row in training.rows if row.question not in taken]
    else:
        training = _trainable(_task(recipe), _elsewhere(data, scored))
        rows, chosen = hold_out(
            training.rows,
            scored,
            wanted=recipe.validation_rows,
            limit=data.train_rows,
            seed=data.seed,
            where=data.task,
        )
    questions = {row.question for row in chosen}
    training.account.validation = len(chosen)
    training = _mixed(recipe, Portion(rows, training.account), scored, questions)
    require_apart(questions, scored, "scored")
    require_apart(questions, {row.question for row in training.rows}, "trained on")
    account.use(chosen)
    return training, Portion(chosen, account)


def _training(recipe: Recipe) -> Portion:
    scored = _measured_questions(recipe) if recipe.data.mix else set[str]()
    return _mixed(recipe, _of_task(recipe, scored), scored)


def _of_task(recipe: Recipe, scored: Collection[str]) -> Portion:
    """The training rows of the task itself, `data.train_rows` of them."""
    data = recipe.data
    portion = _trainable(_task(recipe), _elsewhere(data, scored))
    return Portion(_sampled(portion.rows, data.train_rows, data), portion.account)


def _mixed(recipe: Recipe, own: Portion, scored: Collection[str], chosen: Collection[str] = ()) -> Portion:
    """The task's rows and behind them those of the sets that are mixed with it.

    Args:
        recipe: names the sets.
        own: the task's rows.
        scored: questions that are measured; no set is trained on them.
        chosen: questions that choose between trials; nor on these.
    """
    parts = [own]
    for one in recipe.data.mix:
        source = _source(recipe, one)
        portion = _trainable(source, {*scored, *chosen})
        parts.append(Portion(_sampled(portion.rows, one.rows, source.data, exactly=True), portion.account))
    account = Account.together([part.account for part in parts]) if len(parts) > 1 else own.account
    rows = [row for part in parts for row in part.rows]
    account.use(rows)
    return Portion(rows, account)


def _trainable(source: Source, apart: Collection[str]) -> Portion:
    """The rows of one set that may be trained on, without those that ask what is in `apart`."""
    portion = source.trainable()
    rows = [row for row in portion.rows if row.question not in apart]
    left = len(portion.rows) - len(rows)
    if left:
        portion.account.held_out += left
        say(f"{source.data.task}: {left} rows ask what held-out rows of another set ask, and are not trained on")
    if not rows:
        raise nothing_to_train_on(source.data.task, portion.account.held_out)
    return Portion(rows, portion.account)


def _sampled(rows: list[TaskRow], most: int | None, data: DataConfig, *, exactly: bool = False) -> list[TaskRow]:
    """A seeded sample of `most` rows, or all in their order.

    Raises:
        DataError: if none is asked for, or with `exactly` more than there are.
    """
    if most is None:
        return rows
    if most < 1 or (exactly and most > len(rows)):
        raise DataError(
            "the number of rows must be at least 1" if most < 1 else "a set has fewer rows than are to be mixed in",
            where=data.task,
            expected=f"1 to {len(rows)}, the rows that are not held out",
            got=most,
            do="name fewer; no row is repeated within a pass over the data",
        )
    shuffled = list(rows)
    random.Random(data.seed).shuffle(shuffled)
    return shuffled[:most]


def _all_held_out(recipe: Recipe) -> Portion:
    data = recipe.data
    if data.test is not None:
        return read_set(data, data.test, data.test_split, fetched_by(recipe))
    parts = [source.measurable() for source in _measurable(recipe) or [_task(recipe)]]
    if len(parts) == 1:
        return parts[0]
    return Portion(_in_turn([part.rows for part in parts]), Account.together([part.account for part in parts]))


def _measured_questions(recipe: Recipe) -> set[str]:
    """What is measured; nothing where no row is to be held out."""
    if recipe.data.test is None and not _measurable(recipe):
        return set()
    return {row.question for row in _all_held_out(recipe).rows}


def _measurable(recipe: Recipe) -> list[Source]:
    """The sets that have rows to measure."""
    sources = [_task(recipe), *(_source(recipe, one) for one in recipe.data.mix)]
    return [source for source in sources if recipe.data.held_out or not source.divided]


def _elsewhere(data: DataConfig, scored: Collection[str]) -> Collection[str]:
    """What the task's rows are kept apart from: with other sets beside it, from what these have held out."""
    return scored if data.mix else ()


def _task(recipe: Recipe) -> Source:
    data = recipe.data
    return Source(data, data.test is None and is_single(data.task, data_dir=data.data_dir), fetched_by(recipe))


def _source(recipe: Recipe, one: MixedSet) -> Source:
    """A set that is mixed with the task; a share of it is held out unless it has a split to measure."""
    data = recipe.data
    asked = replace(
        data,
        task=one.name,
        split=one.split,
        test_split=one.test_split,
        subset=one.subset,
        columns=one.columns,
        test=None,  # is read as the task is, and what it asks is left out of every set
        mix=(),
    )
    apart = lists_split(one.name, one.test_split, data_dir=data.data_dir)
    return Source(asked, data.test is None and not apart, fetched_by(recipe))


def _in_turn(lists: Sequence[list[TaskRow]]) -> list[TaskRow]:
    """A row of each list, then the next of each, to the end of the longest."""
    return [row for turn in zip_longest(*lists) for row in turn if row is not None]
