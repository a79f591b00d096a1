"""The arithmetic of a verb: decided before a model is loaded, said in one line, one for a whole run folder."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

from farss.config import Recipe
from farss.errors import StorageError
from farss.experiment.stages import DONE
from farss.model.arithmetic import Arithmetic
from farss.model.devices import place
from farss.model.heads import agreeing_with_head
from farss.model.sources import arithmetic_of
from farss.reading import AMOUNT, OBJECT, TEXT, Document, object_of
from farss.storage import write_json
from farss.storage.owned import writing

ARITHMETIC = "arithmetic.json"
NOTE = Document(
    "note of a run's arithmetic", StorageError, damaged="begin again there with --fresh, or choose another --out"
)
DECIDED = {
    **object_of(checkpoint=TEXT, weights=TEXT, training=TEXT, device=TEXT, reason=TEXT),
    "additionalProperties": False,
}
DECIDED["properties"]["speeds"] = {"type": "object", "additionalProperties": AMOUNT}
NOTED = object_of(asked=OBJECT, decided=DECIDED)


def settle(recipe: Recipe, *, piecewise: bool = False) -> tuple[Recipe, Arithmetic]:
    """The recipe with `model.dtype` and `train.precision` spelled out, and the decision, which is printed.

    Args:
        recipe: model, device and what was asked for.
        piecewise: whether the model's weights need not be in memory together.

    Raises:
        ModelError: if the model is not found, or its folder is damaged.
    """
    decided = _decide(recipe, piecewise)
    _say(decided)
    return _spelled_out(recipe, decided), decided


def settle_in(folder: Path, recipe: Recipe, *, classifier: bool = False) -> tuple[Recipe, Arithmetic]:
    """As `settle`, for a folder that measurements are kept in: what it was begun with is kept to.

    A folder with finished stages and no note of their arithmetic is of a version that computed in the checkpoint's own
    dtype, and goes on so.

    Args:
        folder: of the run, held by the caller and marked.
        recipe: of this call; another `model.dtype` or `train.precision` than before is decided anew, and is part of
            the keys of the stages.
        classifier: whether the model is an encoder whose head is learned.

    Raises:
        ConfigError: if a classifier is asked for in half precision.
        ModelError: if the model is not found, or its folder is damaged.
        StorageError: if the note cannot be read or written.
    """
    asked = {"dtype": recipe.model.dtype, "precision": recipe.train.precision, "device": recipe.device}
    kept = _kept(folder)
    if kept is not None and kept["asked"] == asked:
        decided = Arithmetic(**kept["decided"])
    elif kept is None and recipe.model.dtype == "auto" and any(folder.glob(f"**/{DONE}")):
        decided = _decide(recipe.override({"model.dtype": "checkpoint"}), piecewise=False)
        decided = dataclasses.replace(decided, reason="finished stages here were computed in it")
    else:
        decided = _decide(recipe, piecewise=False)
    if classifier:
        decided = agreeing_with_head(decided, recipe.model.dtype)
    _say(decided)
    with writing(folder, ARITHMETIC):
        write_json(folder / ARITHMETIC, {"schema_version": 1, "asked": asked, "decided": decided.to_mapping()})
    return _spelled_out(recipe, decided), decided


def as_computed_in(folder: Path, recipe: Recipe) -> Recipe:
    """The recipe of a finished run with the arithmetic spelled out that its results were computed in.

    Raises:
        StorageError: if the note of it cannot be read.
    """
    kept = _kept(folder)
    if kept is None:  # of a version that computed in the checkpoint's own dtype
        return _spelled_out(recipe, _decide(recipe.override({"model.dtype": "checkpoint"}), piecewise=False))
    return _spelled_out(recipe, Arithmetic(**kept["decided"]))


def arithmetic_in(folder: Path) -> dict[str, Any] | None:
    """The arithmetic that the results in a folder were computed in; None where an earlier version left no note.

    Raises:
        StorageError: if the note cannot be read.
    """
    kept = _kept(folder)
    return None if kept is None else kept["decided"]


def _kept(folder: Path) -> dict[str, Any] | None:
    file = folder / ARITHMETIC
    if not file.is_file():
        return None
    return NOTE.read_as(file, NOTED)


def _decide(recipe: Recipe, piecewise: bool) -> Arithmetic:
    device = place(recipe.device)
    return arithmetic_of(recipe.model, device, precision=recipe.train.precision, piecewise=piecewise)


def _spelled_out(recipe: Recipe, decided: Arithmetic) -> Recipe:
    asked = recipe.train.precision
    precision = asked if asked == "float16" else "bfloat16" if decided.training == "bfloat16" else "float32"
    return recipe.override({"model.dtype": decided.weights, "train.precision": precision})


def _say(decided: Arithmetic) -> None:
    print(decided.line, file=sys.stderr, flush=True)
