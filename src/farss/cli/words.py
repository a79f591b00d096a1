"""What a command line may say: no argument holds what cannot be the name of anything."""

from __future__ import annotations

import argparse
from pathlib import Path

from farss.errors import ConfigError
from farss.reading import encodable

LONGEST_NAME, LONGEST_PATH = 255, 4096
"""Bytes of one part of a path, and of a whole one, that file systems take."""
PLACES = ("out", "recipe", "plan", "stats", "init", "adapter", "parts", "runs", "data.data_dir", "data_dir")
"""Arguments that name files or folders."""


def check_words(arguments: argparse.Namespace) -> None:
    """Check every argument before anything is done with it.

    Raises:
        ConfigError: if one holds NUL or bytes that are no text, or names a place longer than file systems take.
    """
    for name, value in vars(arguments).items():
        for word in value if isinstance(value, list) else [value]:
            if isinstance(word, (str, Path)):
                _check(name, str(word))


def _check(name: str, word: str) -> None:
    if "\0" in word or not encodable(word):
        raise ConfigError("an argument holds what is no text", where=_flag(name), got=repr(word))
    sizes = [len(part.encode()) for part in word.split("/")]
    if name in PLACES and (max(sizes) > LONGEST_NAME or len(word.encode()) > LONGEST_PATH):
        raise ConfigError(
            "a name is longer than file systems take",
            where=_flag(name),
            expected=f"{LONGEST_NAME} bytes for each part, {LONGEST_PATH} for a whole path",
            got=word,
        )


def _flag(name: str) -> str:
    return f"--{name.rpartition('.')[2].replace('_', '-')}"
