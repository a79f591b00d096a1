"""What a recipe names, fetched: model, training and calibration examples, test rows, knowledge sets."""

from __future__ import annotations

import random
from typing import Any

from farss.config import Recipe
from farss.datasets.formats import formatter, task_format
from farss.datasets.knowledge import KnowledgeSet, load_knowledge
from farss.datasets.resolve import load_rows
from farss.evaluation.task import TaskSet
from farss.model.calibration import Example, encode_rows
from farss.model.sources import LoadedModel, load


def load_model(recipe: Recipe, dtype: str | None = None) -> LoadedModel:
    """The recipe's pre-trained model in its own dtype, or in `dtype`."""
    return load(recipe.model, dtype=dtype)


def training_examples(recipe: Recipe, tokenizer: Any) -> list[Example]:
    """The training rows as token ids: a seeded sample of `data.train_rows`, or all."""
    data = recipe.data
    rows = load_rows(data.task, "train", data_dir=data.data_dir, limit=data.train_rows, seed=data.seed)
    return encode_rows(rows, tokenizer, formatter(data.task, data.template, tokenizer), data.max_length)


def calibration_examples(examples: list[Example], rows: int, seed: int) -> list[Example]:
    """A seeded random sample of the training examples, `rows` of them or all there are."""
    chosen = random.Random(seed).sample(range(len(examples)), min(rows, len(examples)))
    return [examples[i] for i in sorted(chosen)]


def test_set(recipe: Recipe, tokenizer: Any, rows: int | None = None) -> TaskSet:
    """The task's held-out rows, in file order, at most `rows` of them."""
    data = recipe.data
    held_out = load_rows(data.task, "test", data_dir=data.data_dir, limit=rows or recipe.eval.task_rows)
    render, form = formatter(data.task, data.template, tokenizer), task_format(data.task, held_out)
    return TaskSet(
        name=data.task,
        examples=encode_rows(held_out, tokenizer, render, data.max_length),
        prompts=[render(row)[0] for row in held_out],
        golds=[form.gold(row) for row in held_out],
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
