"""Everything that `farss eval --tasks` takes, and the sets of `farss glue`; how many rows a data directory holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from farss.datasets.catalogue import CATALOGUE, describe
from farss.datasets.files import count_rows, data_file
from farss.datasets.resolve import split_stem
from farss.errors import DataError
from farss.evaluation.benchmarks.registry import benchmark_names, get_benchmark
from farss.evaluation.harness import PREFIX
from farss.evaluation.local_tasks import SOURCES


def list_tasks(data_dir: str | Path | None = None) -> list[dict[str, Any]]:
    """One row per name that `farss eval --tasks` takes, and per data set of `farss glue`.

    Args:
        data_dir: also count the rows of each file of it that the name reads.

    Returns:
        Each {"name", "kind" (knowledge, task, classification, benchmark or lm-eval), "summary", "splits", "source"};
        with a data directory also "rows": {"NAME/SPLIT": rows, None where the file is missing}. Embedded sets have
        no files.

    Raises:
        DataError: if the data directory is not there, or a file is damaged.
    """
    rows: list[dict[str, Any]] = [*describe()]
    rows += [
        _row(name, "benchmark", known.summary, [stem.rpartition("/")[2] for stem in known.files])
        for name in benchmark_names()
        if name not in CATALOGUE
        for known in [get_benchmark(name)]
    ]
    rows += [_row(f"{PREFIX}{name}", "lm-eval", known.summary, list(known.files)) for name, known in SOURCES.items()]
    if data_dir is None:
        return rows
    if not Path(data_dir).is_dir():
        raise DataError("the data directory does not exist", where=data_dir, do="check --data-dir")
    counts: dict[str, int | None] = {}
    return [
        row | {"rows": {stem: _count(data_dir, stem, counts) for stem in files_of(row["name"], data_dir)}}
        for row in rows
    ]


def files_of(name: str, data_dir: str | Path) -> tuple[str, ...]:
    """The `NAME/SPLIT` of every file that a name reads in a data directory, there or not.

    Args:
        name: as `--tasks` takes it.
        data_dir: says which of the names that a split may have is there.
    """
    if name.startswith(PREFIX):
        return SOURCES[name.removeprefix(PREFIX)].all_stems
    if name not in CATALOGUE:
        return get_benchmark(name).files
    known = CATALOGUE[name]
    if known.embedded:
        return ()
    return tuple(split_stem(name, split, data_dir) or f"{name}/{split}" for split in known.splits)


def _row(name: str, kind: str, summary: str, splits: list[str]) -> dict[str, Any]:
    return {"name": name, "kind": kind, "summary": summary, "splits": " ".join(splits), "source": "--data-dir"}


def _count(data_dir: str | Path, stem: str, counts: dict[str, int | None]) -> int | None:
    """The rows of a file, each file read once."""
    if stem not in counts:
        file = data_file(data_dir, stem)
        counts[stem] = count_rows(file) if file.is_file() else None
    return counts[stem]
