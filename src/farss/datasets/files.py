"""Rows of one data file: JSON Lines (plain or gzip), JSON, CSV, Parquet. Damage is reported with file and line."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from farss.errors import DataError

Row = dict[str, Any]

SPLIT_SUFFIX = ".jsonl.gz"
"""How a split's file in a data directory ends."""


def data_file(data_dir: str | Path, stem: str) -> Path:
    """Where a data directory has the split that is called `NAME/SPLIT`."""
    return Path(data_dir) / f"{stem}{SPLIT_SUFFIX}"


def is_data_file(name: str | Path) -> bool:
    """Whether the name ends like a file that `read_rows` reads."""
    return _suffix(name) is not None


def read_rows(path: str | Path) -> list[Row]:
    """All rows of a file, in file order.

    Raises:
        DataError: if the file is missing, of an unknown kind, damaged, or holds no rows; it names file and line.
    """
    path = Path(path)
    suffix = _suffix(path)
    if suffix is None:
        raise DataError("the file is of an unknown kind", where=path, expected=" ".join(_READERS), got=path.suffix)
    try:
        rows = _READERS[suffix](path)
    except FileNotFoundError:
        raise DataError("the data file does not exist", where=path, do="check the path") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError("the gzip file is damaged", where=path, got=str(error), do="fetch it again") from None
    except UnicodeDecodeError as error:
        raise DataError("the file is not UTF-8 text", where=path, got=str(error)) from None
    except OSError as error:
        raise DataError("the data file cannot be read", where=path, got=str(error)) from None
    if not rows:
        raise DataError("the data file has no rows", where=path, expected="at least one row")
    return rows


def count_rows(path: str | Path) -> int:
    """The number of rows of a gzip-compressed JSON Lines file, without reading what is in them.

    Raises:
        DataError: if the file cannot be read or is damaged.
    """
    try:
        with gzip.open(path, "rb") as file:
            return sum(1 for line in file if not line.isspace())
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError("the gzip file is damaged", where=path, got=str(error), do="fetch it again") from None
    except OSError as error:
        raise DataError("the data file cannot be read", where=path, got=str(error)) from None


def _suffix(name: str | Path) -> str | None:
    return next((suffix for suffix in _READERS if str(name).lower().endswith(suffix)), None)


def _open(path: Path) -> IO[str]:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig")
    return path.open(encoding="utf-8-sig", newline="")


def _json_lines(path: Path) -> list[Row]:
    with _open(path) as file:
        return [_object(line, f"{path}, line {number}") for number, line in _numbered(file)]


def _numbered(file: IO[str]) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in enumerate(file, start=1) if line.strip())


def _object(text: str, where: str) -> Row:
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError("a line is not valid JSON", where=where, got=str(error)) from None
    return _checked(row, where)


def _checked(row: object, where: str) -> Row:
    if not isinstance(row, dict):
        raise DataError("a row must be an object with named fields", where=where, got=type(row).__name__)
    return row


def _json(path: Path) -> list[Row]:
    with _open(path) as file:
        try:
            content = json.load(file)
        except json.JSONDecodeError as error:
            raise DataError(
                "the file is not valid JSON", where=f"{path}, line {error.lineno}", got=str(error)
            ) from None
    if not isinstance(content, list):
        raise DataError("a JSON data file holds one list of rows", where=path, got=type(content).__name__)
    return [_checked(row, f"{path}, row {number}") for number, row in enumerate(content, start=1)]


def _csv(path: Path) -> list[Row]:
    rows: list[Row] = []
    with _open(path) as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise DataError(
                        "a row has not as many fields as the header",
                        where=f"{path}, line {reader.line_num}",
                        expected=", ".join(reader.fieldnames or ()),
                    )
                rows.append(dict(row))
        except csv.Error as error:
            raise DataError(
                "the CSV file is damaged", where=f"{path}, line {reader.line_num}", got=str(error)
            ) from None
    return rows


def _parquet(path: Path) -> list[Row]:
    # Read by the library under `datasets`, which would first copy the file into its own cache.
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise DataError("the Parquet file is damaged", where=path, got=str(error)) from None


_READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".jsonl.gz": _json_lines,
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}
