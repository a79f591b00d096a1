"""What IFEval's checks need beside lm-eval: two packages, NLTK's sentence tokenizer without a network, and a seed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from farss.errors import ConfigError, DataError

TASK = "ifeval"
PACKAGES = ("immutabledict", "langdetect", "nltk")
TOKENIZER = "tokenizers/punkt_tab/english/"
NLTK_FOLDER = "nltk_data"
"""The folder of a data directory that is looked into after NLTK's own places."""


def check_ifeval(data_dir: str | Path | None) -> None:
    """Check, before a model is loaded, that IFEval can be scored without fetching anything.

    Raises:
        ConfigError: if a package is missing.
        DataError: if NLTK's `punkt_tab` is neither on its own path nor in `nltk_data` of the data directory.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            "IFEval needs packages that are not installed", got=", ".join(missing), do='pip install "farss[eval]"'
        )
    import nltk

    own = list(nltk.data.path)
    ours = [] if data_dir is None else [str(Path(data_dir) / NLTK_FOLDER)]
    with _nltk_path(data_dir):
        try:
            nltk.data.find(TOKENIZER)
        except LookupError:
            raise DataError(
                "IFEval needs NLTK's sentence tokenizer, and nothing is downloaded",
                where=f"lm-eval task {TASK}",
                expected=f"{TOKENIZER} in one of {', '.join([*ours, *own])}",
                do=f"unpack NLTK's punkt_tab into {Path([*ours, *own][0]) / 'tokenizers'}, or, with a network, run "
                "`python -m nltk.downloader punkt_tab`",
            ) from None


@contextmanager
def ifeval_support(data_dir: str | Path | None, seed: int) -> Iterator[None]:
    """Let NLTK find its tokenizer in the data directory, and language detection draw from `seed`, for a while.

    Detecting the language of a short text samples; without a seed two runs could score a response differently. (Two
    prompts count a character that is no letter; lm-eval counts a letter drawn by the generator that it seeds itself.)
    """
    from langdetect import DetectorFactory

    before = DetectorFactory.seed
    DetectorFactory.seed = seed
    try:
        with _nltk_path(data_dir):
            yield
    finally:
        DetectorFactory.seed = before


@contextmanager
def _nltk_path(data_dir: str | Path | None) -> Iterator[None]:
    import nltk

    if data_dir is None:
        yield
        return
    ours = str((Path(data_dir) / NLTK_FOLDER).absolute())
    nltk.data.path.append(ours)
    try:
        yield
    finally:
        nltk.data.path.remove(ours)
