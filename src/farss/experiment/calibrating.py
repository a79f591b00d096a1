"""What statistics are taken from: calibration examples of the task, and knowledge questions that are not asked."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from farss.config import FarssConfig, Recipe
from farss.experiment import materials
from farss.experiment.initialisation.crew import Crew
from farss.experiment.initialisation.growing import Growth
from farss.experiment.initialisation.planning import calibration_batches, resolved
from farss.experiment.initialisation.settling import settles
from farss.experiment.stages import stage_key
from farss.model.calibration import Batch, Example, batches, data_fingerprint, pad_token
from farss.statistics.kinds import DataName


def calibration_of(recipe: Recipe, tokenizer: Any) -> list[Example]:
    """The recipe's calibration examples: as many as may be read at most."""
    most = recipe.data.most_rows
    return materials.calibration_set(recipe, tokenizer, most).first(most)


def calibration_rows(recipe: Recipe) -> dict[str, Any] | None:
    """Which rows may be read for statistics, and which were left out or cut and why, JSON-ready."""
    return materials.calibration_set(recipe, materials.tokenizer_of(recipe), recipe.data.most_rows).account


def growth_of(
    recipe: Recipe,
    tokenizer: Any,
    kept: Path,
    model: Sequence[str],
    hands: Crew | None = None,
    judged: Sequence[FarssConfig] = (),
) -> Growth | None:
    """The calibration examples to be read as far as it takes; None where it is fixed how many are.

    One example alone has no halves: it is read, whatever it says.

    Args:
        recipe: data and init settings.
        tokenizer: of the model.
        kept: a folder from which an interrupted reading goes on.
        model: fingerprint of the weights, and their dtype.
        hands: this process among those that read together.
        judged: the configurations whose plans the rows must be enough for; none stands for the recipe's.
    """
    if not settles(recipe):
        return None
    drawn = materials.calibration_set(recipe, tokenizer, recipe.data.most_rows)
    if len(drawn.rows) == 1:
        return None
    config = resolved(recipe.init)
    read = data_fingerprint(drawn.rows, recipe.data.seed)
    crew = hands or Crew()
    return Growth(
        drawn,
        functools.partial(
            calibration_batches, config=recipe.init, tokenizer=tokenizer, max_length=materials.longest(recipe)
        ),
        functools.partial(data_fingerprint, seed=recipe.data.seed),
        config,
        kept,
        stage_key(list(model), read, config.to_mapping(), crew.size, *(one.to_mapping() for one in judged)),
        crew,
        tuple(map(resolved, judged)),
    )


def examples_of(recipe: Recipe, tokenizer: Any, data: DataName) -> tuple[list[Example], dict[str, Any]]:
    """The examples of one of the data sets that statistics are taken of, and their fingerprint.

    Where the data decide how many rows the curvature takes, those of the task are all that it may take: the other
    statistics, of which nothing says when they are steady, take them all.

    Raises:
        DataError: if there are no rows, or no knowledge question is left.
    """
    if data == "knowledge":
        questions = materials.knowledge_examples(recipe, tokenizer)
        return questions, data_fingerprint(questions, recipe.eval.seed)
    examples = calibration_of(recipe, tokenizer)
    return examples, data_fingerprint(examples, recipe.data.seed)


def in_batches(recipe: Recipe, tokenizer: Any, data: DataName, examples: Sequence[Example]) -> list[Batch]:
    """Examples of one of the data sets as batches."""
    if data == "knowledge":
        return batches(examples, batch_tokens=recipe.init.batch_tokens, pad_id=pad_token(tokenizer))
    return calibration_batches(examples, recipe.init, tokenizer, materials.longest(recipe))


def batches_of(recipe: Recipe, tokenizer: Any, data: DataName = "task") -> tuple[list[Batch], dict[str, Any]]:
    """The batches that statistics of a data set are taken from, and their fingerprint; see `examples_of`."""
    examples, read = examples_of(recipe, tokenizer, data)
    return in_batches(recipe, tokenizer, data, examples), read
