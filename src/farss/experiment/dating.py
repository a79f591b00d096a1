"""One date for the chat templates of a run: the one its folder was begun with."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from farss.config import Recipe
from farss.datasets.dates import TEMPLATE_FILES, day, writes_date
from farss.errors import ConfigError
from farss.model.sources import resolve


def dated(recipe: Recipe, *recorded: str | None) -> Recipe:
    """The recipe with `data.date`, where its chat template writes one; any other recipe as it is.

    Args:
        recipe: of this call; a date in it is kept to.
        recorded: dates of earlier calls, the one that matters most first; None where there was none.

    Raises:
        ConfigError: if this call asks for another date than an earlier one, or for none that there is.
        ModelError: if the model is not found.
    """
    asked = recipe.data.date
    if asked is not None:
        day(asked)
    template = Path(recipe.data.template)
    folder = resolve(recipe.model.name, recipe.model.revision)
    if not writes_date([template, *(folder / name for name in TEMPLATE_FILES)]):
        return recipe
    earlier = next((found for found in recorded if found is not None), None)
    if asked is not None and earlier is not None and asked != earlier:
        raise ConfigError(
            "the folder was begun with another date in its chat template",
            where="data.date",
            expected=earlier,
            got=asked,
            do="leave data.date out, choose another --out, or give --fresh",
        )
    return recipe.override({"data.date": asked or earlier or date.today().isoformat()})


def date_in(file: Path) -> str | None:
    """The date in the recipe beside a result; None where there is no recipe, or no date in it.

    Raises:
        ConfigError: if the recipe cannot be read.
    """
    return Recipe.from_yaml(file).data.date if file.is_file() else None
