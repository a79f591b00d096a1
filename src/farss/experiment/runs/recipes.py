"""Recipes that come with the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from farss.errors import ConfigError, did_you_mean


def shipped_recipes() -> dict[str, Path]:
    """Name and file of every recipe in the package."""
    folder = Path(str(resources.files("farss") / "recipes"))
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def find_recipe(name_or_path: str) -> Path:
    """The file of a shipped recipe's name, or the path itself.

    Raises:
        ConfigError: if it is neither.
    """
    shipped = shipped_recipes()
    if name_or_path in shipped:
        return shipped[name_or_path]
    path = Path(name_or_path)
    if path.is_file():
        return path
    raise ConfigError(
        "no such recipe",
        got=name_or_path,
        expected=f"a YAML file, or one of {', '.join(shipped)}",
        do=did_you_mean(name_or_path, shipped) or "check the path",
    )
