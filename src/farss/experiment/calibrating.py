"""What statistics are taken from: calibration examples of the task, and knowledge questions that are not asked."""

from __future__ import annotations

from typing import Any

from farss.config import Recipe
from farss.experiment import materials
from farss.experiment.initialisation.planning import calibration_batches
from farss.methods.base import KNOWLEDGE
from farss.model.calibration import Batch, Example, data_fingerprint, pad_token
from farss.model.calibration import batches as in_batches


def calibration_of(recipe: Recipe, tokenizer: Any) -> list[Example]:
    """The recipe's calibration examples."""
    training = materials.training_examples(recipe, tokenizer)
    return materials.calibration_examples(training, recipe.data.calibration_rows, recipe.data.seed)


def batches_of(recipe: Recipe, tokenizer: Any, kind: str = "curvature") -> tuple[list[Batch], dict[str, Any]]:
    """The batches that statistics of one kind are taken from, and their fingerprint.

    Raises:
        DataError: if there are no rows, or no knowledge question is left.
    """
    if kind == KNOWLEDGE:
        questions = materials.knowledge_examples(recipe, tokenizer)
        pad = pad_token(tokenizer)
        queue = in_batches(questions, batch_tokens=recipe.init.batch_tokens, pad_id=pad)
        return queue, data_fingerprint(questions, recipe.eval.seed)
    examples = calibration_of(recipe, tokenizer)
    batches = calibration_batches(examples, recipe.init, tokenizer, materials.longest(recipe))
    return batches, data_fingerprint(examples, recipe.data.seed)
