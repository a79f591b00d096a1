"""`farss rows`: what is understood of data before anything is trained: rows as read, as rendered, and as learned."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from farss.config import Recipe
from farss.experiment import materials
from farss.experiment.fetched import Inputs
from farss.experiment.set_rows import Portion, TaskRow
from farss.experiment.task_rows import held_out_portion, training_portion
from farss.model.examples import UNSUPERVISED, Example

COUNTED = 10_000
"""Rows that are tokenised to count those that are cut or left out, at most."""


def show_rows(recipe: Recipe, most: int, *, held_out: bool = False) -> dict[str, Any]:
    """The first rows of the task as farss reads and learns them; only the tokenizer is loaded.

    Args:
        recipe: names model and data.
        most: how many rows are shown.
        held_out: show the rows that are measured, not those that are trained on.

    Returns:
        JSON-ready: the model, the template, the settings, `counts` (what became of the rows; of cut and left-out rows
        among the first `counted`) and `rows`, each with its number, set, fields, form, text, and its parts with
        whether they are learned.

    Raises:
        ModelError: if the model is not found.
        DataError: if a row cannot be read or rendered and `data.on_bad_row` is "refuse"; it names the row.
    """
    recipe = Inputs.of(recipe)
    tokenizer = materials.tokenizer_of(recipe)
    if held_out:
        recipe = materials.measuring(recipe)
    portion = held_out_portion(recipe) if held_out else training_portion(recipe)
    counted = Portion(portion.rows[:COUNTED], portion.account)
    found = materials.prepared(recipe, counted, tokenizer)
    portion.account.use(portion.rows)
    shown = zip(found.rows[:most], found.examples, found.texts, strict=False)
    return {
        "model": recipe.model.name,
        "template": materials.rows_formatter(recipe, tokenizer).template,
        "data": recipe.data.to_mapping(),
        "use": "held out" if held_out else "training",
        "counts": found.account.summary(),
        "counted": len(counted.rows),
        "rows": [_shown(row, example, text.text, tokenizer) for row, example, text in shown],
    }


def _shown(row: TaskRow, example: Example, text: str, tokenizer: Any) -> dict[str, Any]:
    labels = zip(example.ids, example.labels, strict=True)
    parts = [(learned, [token for token, _ in run]) for learned, run in groupby(labels, _is_learned)]
    return {
        "number": row.number,
        "set": row.set,
        "fields": dict(row.row),
        "form": row.record.form,
        "unused_fields": list(row.record.unused),
        "text": text,
        "tokens": len(example),
        "learned_tokens": len(example.response_ids),
        "parts": [{"learned": learned, "text": tokenizer.decode(ids), "ids": ids} for learned, ids in parts],
        "record": {"messages": list(row.record.messages), "tools": list(row.record.tools)}
        if row.record.text is None
        else {"text": row.record.text},
    }


def _is_learned(token: tuple[int, int]) -> bool:
    return token[1] != UNSUPERVISED
