"""Everything that a recipe names and does not hold: its model and rows, each by a hash of what answers to the name."""

from __future__ import annotations

import dataclasses

from farss.config import Recipe
from farss.experiment import materials
from farss.experiment.runs.keys import later_settings
from farss.experiment.stages import stage_key
from farss.experiment.unchanged import model_input, requested


def inputs_of(recipe: Recipe) -> dict[str, str]:
    """Name and request -> a hash of what answers it, of the recipe's model and every set of rows.

    Raises:
        FarssError: as `materials.check_inputs`.
    """
    data, asked = recipe.data, recipe.eval
    found = model_input(recipe)
    drawn = [data.train_rows, data.seed, recipe.select, recipe.select != "none" and recipe.validation_rows]
    division = later_settings(data)  # which rows of a set are which: another division is another request
    further = [division] if division else []
    training = requested(f"training rows of {data.task}", data.data_dir, drawn, *further)
    found[training] = stage_key(materials.training_rows(recipe))
    held_out = requested(f"held-out rows of {data.task}", data.data_dir, asked.task_rows, *further)
    found[held_out] = stage_key(materials.held_out_rows(recipe))
    for questions in materials.knowledge_sets(recipe):
        request = (data.data_dir, asked.knowledge_rows, asked.shots, asked.seed)
        found[requested(f"questions of {questions.name}", *request)] = stage_key(dataclasses.asdict(questions))
    return found
