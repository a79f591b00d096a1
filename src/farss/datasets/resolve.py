"""A data set's name to its rows: an explicit file, then the data directory, then the embedded sets, then the hub."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from farss.datasets import facts, word_problems
from farss.datasets.catalogue import CATALOGUE, SPLIT_ALIASES, HubSource
from farss.datasets.containers import is_saved_folder, saved_rows, saved_splits
from farss.datasets.files import OPENERS, PARQUET, READERS, SPLIT_SUFFIX, is_data_file, read_rows
from farss.datasets.slices import Part
from farss.errors import DataError, did_you_mean
from farss.reading import is_file, is_folder

EMBEDDED: dict[str, Callable[[str], list[dict[str, Any]]]] = {"facts": facts.rows, "word_problems": word_problems.rows}


SUFFIXES = (SPLIT_SUFFIX, *READERS, PARQUET, *(f"{kind}{packed}" for kind in READERS for packed in OPENERS))
"""What a split's file in a folder may end like, tried in this order."""


def load_rows(
    name: str,
    split: str,
    *,
    data_dir: str | Path | None = None,
    limit: int | None = None,
    seed: int | None = None,
    subset: str | None = None,
) -> list[dict[str, Any]]:
    """The rows of one split of a data set.

    Args:
        name: a file (`farss.datasets.files` says of which kinds; it has no splits, so `split` is not used but for its
            slice), a set of the data directory, an embedded set, a folder with a file per split or written by
            `datasets`, or a hub id.
        split: "train", "validation", "test" (`SPLIT_ALIASES` lists the file names tried for each), or a set's own;
            `train[:1000]`, `train[10%:20%]` and the like take a part of it.
        data_dir: folder laid out as `NAME/SPLIT.jsonl.gz`.
        limit: at most this many rows, None for all.
        seed: which rows a limit keeps: None the first ones, a number a shuffle's first ones. Without a limit the
            rows come in file order.
        subset: which configuration of a hub data set.

    Raises:
        DataError: if the set or split is nowhere to be found (it lists where it looked), damaged, or empty.
    """
    if limit is not None and limit < 1:
        raise DataError("the number of rows must be at least 1", where=name, got=limit)
    part = Part.parse(split)
    rows = part.of(_all_rows(name, part.split, Path(data_dir) if data_dir is not None else None, subset))
    if not rows:
        raise DataError("the data set has no rows", where=f"{name}, split {split}", expected="at least one row")
    if limit is not None and seed is not None:
        rows = list(rows)
        random.Random(seed).shuffle(rows)
    return rows[:limit]


def is_single(name: str, *, data_dir: str | Path | None = None) -> bool:
    """Whether a set is one list of rows without splits: a file, or a folder that `datasets` saved so."""
    if is_data_file(name):
        return True
    place = Path(data_dir) if data_dir is not None else None
    return _folder(name, place) is None and is_saved_folder(name) and not saved_splits(name)


def has_split(name: str, split: str, *, data_dir: str | Path | None = None) -> bool:
    """Whether a set has rows apart for `split`, so far as can be told without fetching anything.

    A single file has no splits; a set of the data directory has the files that are there; for the others the
    catalogue says.
    """
    if is_single(name, data_dir=data_dir):
        return False
    folder = _folder(name, Path(data_dir) if data_dir is not None else None)
    if folder is not None:
        return _split_file(folder, split) is not None
    if is_saved_folder(name):
        return split in saved_splits(name)
    return name not in CATALOGUE or split in CATALOGUE[name].splits


def lists_split(name: str, split: str, *, data_dir: str | Path | None = None) -> bool:
    """Whether a set is known to have rows apart for `split`; False where only the hub could tell."""
    place = Path(data_dir) if data_dir is not None else None
    known = name in CATALOGUE or _folder(name, place) is not None or is_saved_folder(name)
    return known and has_split(name, split, data_dir=data_dir)


def split_stem(name: str, split: str, data_dir: str | Path) -> str | None:
    """The `NAME/SPLIT` of the file that a data directory has for a split of a set; None where it has none."""
    file = _split_file(Path(data_dir) / name, split)
    return f"{name}/{file.name.removesuffix(SPLIT_SUFFIX)}" if file and file.name.endswith(SPLIT_SUFFIX) else None


def _all_rows(name: str, split: str, data_dir: Path | None, subset: str | None) -> list[dict[str, Any]]:
    if is_data_file(name):
        return read_rows(name)
    if data_dir is not None and not is_folder(data_dir):
        raise DataError("the data directory does not exist", where=data_dir, do="check --data-dir")
    folder = _folder(name, data_dir)
    if folder is not None:
        return _rows_in_folder(folder, split)
    if is_saved_folder(name):
        return _saved(name, split)
    if name in EMBEDDED:
        return EMBEDDED[name](split)
    source = _hub_source(name, subset)
    if source is None:
        raise _not_found(name, split, data_dir)
    return _hub_rows(name, split, source, data_dir)


def _folder(name: str, data_dir: Path | None) -> Path | None:
    """The folder with a file per split for `name`: in the data directory, or named outright."""
    for folder in ([data_dir / name] if data_dir is not None else []) + [Path(name)]:
        if is_folder(folder) and (any(folder.glob(f"*{SPLIT_SUFFIX}")) or _split_file(folder, "train") is not None):
            return folder
    return None


def _split_file(folder: Path, split: str) -> Path | None:
    for stem in dict.fromkeys((split, *SPLIT_ALIASES.get(split, ()))):
        for suffix in SUFFIXES:
            path = folder / f"{stem}{suffix}"
            if is_file(path):
                return path
    return None


def _saved(name: str, split: str) -> list[dict[str, Any]]:
    splits = saved_splits(name)
    if not splits:
        return saved_rows(name, None)
    found = next((alias for alias in (split, *SPLIT_ALIASES.get(split, ())) if alias in splits), None)
    if found is None:
        raise _no_split(Path(name), split, splits)
    return saved_rows(name, found)


def _rows_in_folder(folder: Path, split: str) -> list[dict[str, Any]]:
    path = _split_file(folder, split)
    if path is None:
        there = sorted(file.name.split(".")[0] for file in folder.iterdir() if file.name.endswith(SUFFIXES))
        raise _no_split(folder, split, there)
    return read_rows(path)


def _no_split(folder: Path, split: str, there: Sequence[str]) -> DataError:
    return DataError(
        f"the data set has no split `{split}`",
        where=folder,
        expected=" | ".join(SPLIT_ALIASES.get(split, (split,))),
        got=", ".join(there),
        do="name one of these splits (data.split, data.test_split), another set (data.test), or add the missing file",
    )


def _hub_source(name: str, subset: str | None) -> HubSource | None:
    if name in CATALOGUE:
        return CATALOGUE[name].hub
    # A bare unknown word is a misspelling far more often than one of the hub's few unowned names.
    return HubSource(name, subset) if "/" in name or is_folder(name) else None


def _hub_rows(name: str, split: str, source: HubSource, data_dir: Path | None) -> list[dict[str, Any]]:
    import datasets
    from datasets.exceptions import DatasetsError

    wanted = source.splits.get(split, split)
    try:
        found = datasets.load_dataset(source.repository, source.configuration, split=wanted)
    except (OSError, ValueError, DatasetsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        named = f"{source.repository}, subset {source.configuration}" if source.configuration else source.repository
        raise _not_found(name, split, data_dir, f"{named} (split {wanted}): {reason}") from error
    return [dict(row) for row in found]


def _not_found(name: str, split: str, data_dir: Path | None, hub: str | None = None) -> DataError:
    others = [known for known in CATALOGUE if known != name]
    looked = [
        "a file: the name has no data suffix",
        f"data directory: no {data_dir / name}" if data_dir is not None else "data directory: none was given",
        f"embedded: {', '.join(EMBEDDED)}",
        f"hub: {hub}" if hub else "hub: not a known name, nor of the form OWNER/NAME",
    ]
    return DataError(
        "the data set was not found",
        where=f"{name}, split {split}",
        got="; ".join(looked),
        do=did_you_mean(name, others)
        or "give --data-dir with NAME/SPLIT.jsonl.gz, a file, or a hub id with network access",
    )
