"""Rows of one data file. Its name says how it is opened, its content how it is read; damage is reported with the line.

What a file holds becomes rows in `farss.datasets.containers`.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from farss.datasets import containers
from farss.datasets.containers import Lines
from farss.errors import DataError
from farss.reading import is_file, open_ordinary

Row = dict[str, Any]

SPLIT_SUFFIX = ".jsonl.gz"
"""How a split's file in a data directory ends."""

OPENERS: dict[str, Callable[..., IO[Any]]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
READERS: dict[str, Callable[[Lines, str], list[Row]]] = {
    ".jsonl": containers.json_rows,
    ".ndjson": containers.json_rows,
    ".json": containers.json_rows,
    ".csv": containers.table_rows,
    ".tsv": containers.table_rows,
}
PARQUET, ARROW = ".parquet", ".arrow"
UNREAD = {
    ".zst": "decompress it: zstd -d FILE",
    ".zip": "unpack it",
    ".tar": "unpack it",
    ".xlsx": "save it as CSV",
    ".xls": "save it as CSV",
    ".yaml": "write it as JSON Lines, one object a line",
    ".txt": 'write it as JSON Lines: {"text": "..."} a line',
    ".pkl": "write it as JSON Lines or Parquet; pickles can run code when they are opened",
    ".pickle": "write it as JSON Lines or Parquet; pickles can run code when they are opened",
}
"""Kinds of file that people have and that are not read, with what to do."""
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError)


def data_file(data_dir: str | Path, stem: str) -> Path:
    """Where a data directory has the split that is called `NAME/SPLIT`."""
    return Path(data_dir) / f"{stem}{SPLIT_SUFFIX}"


def is_data_file(name: str | Path) -> bool:
    """Whether the name is a file's: it ends like one, read here or refused with advice, or a file is there."""
    kind, _ = _kind(name)
    return kind in READERS or kind in (PARQUET, ARROW) or kind in UNREAD or is_file(name)


def read_rows(path: str | Path) -> list[Row]:
    """All rows of a file, in file order.

    Raises:
        DataError: if the file is missing, of an unknown kind, damaged, not UTF-8, or holds no rows; it names file and
            line.
    """
    path = Path(path)
    kind, opener = _kind(path)
    try:
        open_ordinary(path).close()  # a pipe would be waited for
        if kind in (PARQUET, ARROW):
            rows = containers.columnar_rows(path, kind)
        elif kind in READERS:
            with _text(path, opener) as file:
                most = None if opener is open else containers.MOST_UNPACKED
                rows = READERS[kind](Lines(file, str(path), most), str(path))
        else:
            raise _unknown(path, kind)
    except FileNotFoundError:
        raise DataError("the data file does not exist", where=path, do="check the path") from None
    except DAMAGED as error:
        what = "the gzip file is damaged" if opener is gzip.open else "the compressed file is damaged"
        raise DataError(what, where=path, got=str(error), do="fetch it again") from None
    except UnicodeDecodeError as error:
        raise _not_utf8(path, opener, error) from None
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
        open_ordinary(path).close()
        with gzip.open(path, "rt", encoding="latin-1", newline="\n") as file:  # which every byte is text in
            return sum(1 for line in Lines(file, str(path), containers.MOST_UNPACKED) if not line.isspace())
    except DAMAGED as error:
        raise DataError("the gzip file is damaged", where=path, got=str(error), do="fetch it again") from None
    except OSError as error:
        raise DataError("the data file cannot be read", where=path, got=str(error)) from None


def _kind(name: str | Path) -> tuple[str, Callable[..., IO[Any]]]:
    """The suffix that says what is in the file, and what opens it."""
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    opener: Callable[..., IO[Any]] = open
    if suffixes and suffixes[-1] in OPENERS:
        opener = OPENERS[suffixes.pop()]
    return (suffixes[-1] if suffixes else ""), opener


def _text(path: Path, opener: Callable[..., IO[Any]]) -> IO[str]:
    return opener(path, "rt", encoding="utf-8-sig", newline="")


def _unknown(path: Path, kind: str) -> DataError:
    if not path.exists():
        return DataError("the data file does not exist", where=path, do="check the path")
    return DataError(
        "the file is of an unknown kind",
        where=path,
        expected=" ".join([*READERS, PARQUET, ARROW, "(text files also with .gz, .bz2 or .xz)"]),
        got=kind or "a name without an ending",
        do=UNREAD.get(kind, "rename it to what it holds, or convert it"),
    )


def _not_utf8(path: Path, opener: Callable[..., IO[Any]], error: UnicodeDecodeError) -> DataError:
    with opener(path, "rb") as file:
        head = file.read(64)
    wide = head.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in head
    encoding = "UTF-16" if wide else "LATIN1"
    return DataError(
        "the file is not UTF-8 text",
        where=path,
        got=f"{'UTF-16, it seems' if wide else 'perhaps Latin-1 or Windows-1252'} ({error.reason}, byte {error.start})",
        do=f"convert it, for example: iconv -f {encoding} -t UTF-8 {path.name} > utf8-{path.name}",
    )
