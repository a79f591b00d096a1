"""What a run was begun with, so that it is not finished with something else of the same name.

A recipe names a model and data sets; the settings of a stage are its key, and what stands behind a name is not among
them. A folder of weights that was trained further, or a data file that was replaced, would give half of a report one
meaning and half of it another.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from farss.config import Recipe
from farss.errors import ConfigError
from farss.experiment import materials
from farss.experiment.stages import stage_key
from farss.model.fingerprints import files_hash
from farss.model.sources import resolve
from farss.storage import write_json

INPUTS = "inputs.json"


def check_unchanged(recipe: Recipe, folder: Path) -> None:
    """Compare model and rows with those that the run in `folder` was begun with, and note what is new.

    What the recipe asks anew (more rows, another set) is no change: only the same request with another answer is.

    Raises:
        ConfigError: naming what changed; nothing was touched.
    """
    file = folder / INPUTS
    known: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    found = inputs_of(recipe)
    for name, content in found.items():
        if known.get(name, content) != content:
            raise ConfigError(
                "an input changed since this run was begun, and finished stages would be mixed with new ones",
                where=f"{folder}: {name.partition(' @ ')[0]}",
                expected=known[name],
                got=content,
                do="bring the former one back, or give another run folder with `--out`",
            )
    if not found.items() <= known.items():
        write_json(file, known | found)


def inputs_of(recipe: Recipe) -> dict[str, str]:
    """Name and request -> a hash of what answers it, of the recipe's model and every set of rows.

    Raises:
        FarssError: as `materials.check_inputs`.
    """
    data, asked = recipe.data, recipe.eval
    model = resolve(recipe.model.name, recipe.model.revision)
    found = {_name(f"model {recipe.model.name}", recipe.model.revision): files_hash(model)}
    drawn = [data.train_rows, data.seed, recipe.select, recipe.select != "none" and recipe.validation_rows]
    found[_name(f"training rows of {data.task}", data.data_dir, drawn)] = _hash(materials.training_rows(recipe))
    found[_name(f"held-out rows of {data.task}", data.data_dir, asked.task_rows)] = _hash(
        materials.held_out_rows(recipe)
    )
    for questions in materials.knowledge_sets(recipe):
        request = (data.data_dir, asked.knowledge_rows, asked.shots, asked.seed)
        found[_name(f"questions of {questions.name}", *request)] = _hash(dataclasses.asdict(questions))
    return found


def _name(what: str, *request: object) -> str:
    return f"{what} @ {json.dumps(request, default=str)}"


def _hash(rows: Any) -> str:
    return stage_key(rows)
