"""What a recipe names, fetched: model, training and calibration examples, test rows, knowledge sets."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from farss.config import MOST_ROWS, Dtype, Recipe
from farss.datasets.formats import formatter, task_format
from farss.datasets.knowledge import KnowledgeSet, load_knowledge, unasked_prompts
from farss.datasets.resolve import lists_split, load_rows
from farss.errors import ConfigError
from farss.evaluation.task import TaskSet
from farss.experiment.validation import hold_out, question_of, require_apart, sample_apart
from farss.model.calibration import Example, Row, encode_kept_rows, encode_prompts
from farss.model.checkpoint import language_model, load_config, load_tokenizer
from farss.model.devices import place
from farss.model.sources import LoadedModel, load, resolve
from farss.model.tables import check_ids, vocabulary_of, window_of


def load_model(recipe: Recipe, dtype: Dtype | None = None) -> LoadedModel:
    """The recipe's pre-trained model on its device, in its own dtype or in `dtype`."""
    return load(recipe.model, dtype=dtype, device=place(recipe.device))


def load_for_statistics(recipe: Recipe) -> LoadedModel:
    """The recipe's model in the dtype its statistics are taken in (`init.dtype`)."""
    return load_model(recipe, None if recipe.init.dtype == "auto" else recipe.init.dtype)


def check_model(recipe: Recipe) -> Path:
    """The folder of the recipe's model, whose kind and files were checked; nothing is loaded.

    Raises:
        ModelError: if the model is not found, damaged, or writes no text.
    """
    folder = resolve(recipe.model.name, recipe.model.revision)
    language_model(folder, trust_remote_code=recipe.model.trust_remote_code)
    return folder


def tokenizer_of(recipe: Recipe) -> Any:
    """The tokenizer of the recipe's model, which is checked first and not loaded.

    Raises:
        ModelError: as `check_model`, or if the tokenizer cannot be used.
    """
    return load_tokenizer(check_model(recipe), recipe.model.trust_remote_code)


def check_inputs(recipe: Recipe, *, train: bool = True, test: bool = True) -> None:
    """Check, before a model is loaded, that the model's folder, the rows and the knowledge sets are there and readable.

    Args:
        recipe: names them.
        train: check the training rows.
        test: check the held-out rows.

    Raises:
        ModelError: if the model is not found, damaged, or writes no text.
        DataError: if rows are missing, empty, or lack fields; it names the row.
    """
    check_model(recipe)
    if train:
        training_rows(recipe)
    if test:
        task_format(recipe.data.task, held_out_rows(recipe))
    knowledge_sets(recipe)


def training_rows(recipe: Recipe) -> list[dict[str, Any]]:
    """The training rows: a seeded sample of `data.train_rows`, or all.

    Raises:
        DataError: if there are none, or a row lacks fields; it names the row.
    """
    if recipe.select == "validation":
        return divided_rows(recipe)[0]
    data = recipe.data
    rows = load_rows(data.task, "train", data_dir=data.data_dir, limit=data.train_rows, seed=data.seed)
    task_format(data.task, rows)
    return rows


def divided_rows(recipe: Recipe) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training rows and the validation rows that choose between trials.

    The latter are of the data set's own validation split where it is known to have one with rows that are not scored,
    else they are held out of the training rows.

    Raises:
        DataError: if there are too few rows, or a row lacks fields; it names the row.
    """
    data = recipe.data
    scored = load_rows(data.task, "test", data_dir=data.data_dir)  # all, whatever `eval.task_rows` asks
    form = task_format(data.task, scored)
    asked = {question_of(form, row) for row in scored}
    chosen: list[dict[str, Any]] = []
    if lists_split(data.task, "validation", data_dir=data.data_dir):
        rows = load_rows(data.task, "validation", data_dir=data.data_dir)
        task_format(data.task, rows)
        chosen = sample_apart(rows, form, asked, wanted=recipe.validation_rows, seed=data.seed)
    if chosen:
        taken = {question_of(form, row) for row in chosen}
        rows = load_rows(data.task, "train", data_dir=data.data_dir, limit=data.train_rows, seed=data.seed)
        task_format(data.task, rows)
        training = [row for row in rows if question_of(form, row) not in taken]
    else:
        rows = load_rows(data.task, "train", data_dir=data.data_dir)
        task_format(data.task, rows)
        wanted, limit = recipe.validation_rows, data.train_rows
        training, chosen = hold_out(rows, form, asked, wanted=wanted, limit=limit, seed=data.seed)
    questions = {question_of(form, row) for row in chosen}
    require_apart(questions, asked, "scored")
    require_apart(questions, {question_of(form, row) for row in training}, "trained on")
    return training, chosen


def held_out_rows(recipe: Recipe, rows: int | None = None) -> list[dict[str, Any]]:
    """The task's held-out rows, in file order, at most `rows` or `eval.task_rows` of them."""
    data = recipe.data
    return load_rows(data.task, "test", data_dir=data.data_dir, limit=rows or recipe.eval.task_rows)


def training_examples(recipe: Recipe, tokenizer: Any) -> list[Example]:
    """The training rows as token ids: a seeded sample of `data.train_rows`, or all."""
    data, rows = recipe.data, training_rows(recipe)
    kept, examples = encode_kept_rows(rows, tokenizer, formatter(data.task, data.template, tokenizer), longest(recipe))
    check_tokens(recipe, tokenizer, examples, [f"{data.task}, training row {row}" for row in kept])
    return examples


def longest(recipe: Recipe) -> int:
    """The most tokens of a text: `data.max_length`, or what the recipe's model reads where that is less."""
    asked, window = recipe.data.max_length, window_of(_configuration(recipe))
    if window is not None and window < asked:
        warnings.warn(
            f"max_length is {asked}, and the model reads {window} tokens: texts are cut to these", stacklevel=2
        )
    return min(asked, window or asked)


def check_tokens(recipe: Recipe, tokenizer: Any, examples: Sequence[Example], rows: Sequence[str]) -> None:
    """Check, before the model is loaded, that it has an embedding for every token of the examples.

    Raises:
        DataError: naming the row, as `rows` does, and the token.
    """
    texts = [example.prompt_ids + example.response_ids for example in examples]
    check_ids(texts, vocabulary_of(_configuration(recipe)), rows, tokenizer)


def _configuration(recipe: Recipe) -> Any:
    named = recipe.model
    return load_config(resolve(named.name, named.revision), named.trust_remote_code)


@dataclass(frozen=True)
class Drawn(Generic[Row]):
    """Calibration rows in the order in which they are drawn: the first of them are a random sample, however many.

    Attributes:
        rows: in that order.
        places: of each among the rows they are drawn from.
    """

    rows: list[Row]
    places: list[int]

    def first(self, count: int) -> list[Row]:
        """The first `count` of them, in the order of the rows they are drawn from."""
        return [self.rows[i] for i in sorted(range(min(count, len(self.rows))), key=self.places.__getitem__)]


def draw(examples: list[Row], rows: int, seed: int) -> Drawn[Row]:
    """A seeded random sample of the training examples, `rows` of them or all there are.

    Samples of up to `MOST_ROWS` rows are the beginnings of one.
    """
    count = len(examples)
    places = random.Random(seed).sample(range(count), min(max(rows, MOST_ROWS), count))[:rows]
    return Drawn([examples[i] for i in places], places)


def calibration_examples(examples: list[Row], rows: int, seed: int) -> list[Row]:
    """The sample that `draw` draws, in the order of `examples`."""
    return draw(examples, rows, seed).first(rows)


def knowledge_prompts(recipe: Recipe) -> list[str]:
    """Knowledge questions that the recipe does not ask: as many as calibration rows may be read, or all there are.

    Raises:
        ConfigError: if no knowledge set is named.
        DataError: if the set is missing, or every question of it is asked.
    """
    data, settings = recipe.data, recipe.eval
    name = data.knowledge_calibration or next(iter(settings.knowledge), None)
    if name is None:
        raise ConfigError("a knowledge set is needed to take statistics from", where="data.knowledge_calibration")
    return unasked_prompts(
        name,
        data.most_rows,
        asked=settings.knowledge_rows if name in settings.knowledge else 0,
        shots=settings.shots,
        data_dir=data.data_dir,
        seed=settings.seed,
    )


def knowledge_examples(recipe: Recipe, tokenizer: Any) -> list[Example]:
    """`knowledge_prompts` as token ids: the questions alone, as CorDA and LoRA-Null read them, without answers."""
    examples = encode_prompts(knowledge_prompts(recipe), tokenizer, longest(recipe))
    check_tokens(recipe, tokenizer, examples, [f"knowledge question {number}" for number in range(len(examples))])
    return examples


def test_set(recipe: Recipe, tokenizer: Any, rows: int | None = None) -> TaskSet:
    """The task's first `rows` held-out rows, without those whose prompt alone fills `max_length`."""
    return _task_set(recipe, tokenizer, held_out_rows(recipe, rows))


def validation_set(recipe: Recipe, tokenizer: Any) -> TaskSet:
    """The rows that choose between trials, without those whose prompt alone fills `max_length`."""
    return _task_set(recipe, tokenizer, divided_rows(recipe)[1])


def _task_set(recipe: Recipe, tokenizer: Any, held_out: list[dict[str, Any]]) -> TaskSet:
    data = recipe.data
    render, form = formatter(data.task, data.template, tokenizer), task_format(data.task, held_out)
    kept, examples = encode_kept_rows(held_out, tokenizer, render, longest(recipe))
    check_tokens(recipe, tokenizer, examples, [f"{data.task}, held-out row {row}" for row in kept])
    return TaskSet(
        name=data.task,
        examples=examples,
        prompts=[render.prompt(held_out[row]) for row in kept],
        golds=[form.gold(held_out[row]) for row in kept],
    )


def knowledge_sets(recipe: Recipe, rows: int | None = None) -> list[KnowledgeSet]:
    """The recipe's knowledge sets with their few-shot prefixes."""
    settings = recipe.eval
    return [
        load_knowledge(
            name,
            rows=rows or settings.knowledge_rows,
            shots=settings.shots,
            data_dir=recipe.data.data_dir,
            seed=settings.seed,
        )
        for name in settings.knowledge
    ]
