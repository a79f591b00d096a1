"""What a run was begun with, so that it is not finished with something else of the same name.

A recipe names a model and data sets; the settings of a stage are its key, and what stands behind a name is not among
them. A folder of weights that was trained further, or a data file that was replaced, would give half of a report one
meaning and half of it another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from farss.config import Recipe
from farss.errors import ConfigError, StorageError
from farss.experiment.fetched import fetched_by
from farss.model.fingerprints import files_hash
from farss.model.sources import resolve
from farss.reading import TEXT, Document
from farss.storage import write_json
from farss.storage.owned import writing

INPUTS = "inputs.json"
INPUTS_FILE = Document(
    "note of a run's inputs", StorageError, damaged="begin again there with --fresh, or choose another --out"
)
HASHES = {"type": "object", "additionalProperties": TEXT}


def check_unchanged(found: Mapping[str, str], folder: Path) -> None:
    """Compare a run's inputs with those it was begun with, and note what is new in its `inputs.json`.

    What is asked anew (more rows, another set) is no change: only the same request with another answer is.

    Args:
        found: name and request (`requested`) -> hash of what answers it.
        folder: of the run, held by the caller and marked.

    Raises:
        ConfigError: naming what changed; nothing was touched.
        StorageError: if the note of the inputs is damaged.
    """
    file = folder / INPUTS
    known: dict[str, str] = INPUTS_FILE.read_as(file, HASHES) if file.is_file() else {}
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
        with writing(folder, INPUTS):
            write_json(file, known | dict(found))


def requested(what: str, *request: object) -> str:
    """The name of an input: what it is, and everything that was asked of it."""
    return f"{what} @ {json.dumps(request, default=str)}"


def model_input(recipe: Recipe) -> dict[str, str]:
    """The model's name and request -> hash of its files.

    Raises:
        ModelError: if it is not found.
    """
    name, revision = recipe.model.name, recipe.model.revision
    content = fetched_by(recipe).once("files", lambda: files_hash(resolve(name, revision)), name, revision)
    return {requested(f"model {name}", revision): content}
