"""What a data file holds, to rows: JSON in its several shapes, tables with a header, columns, saved Arrow folders.

A JSON file may be one object a line, one list of objects, columns by name, or a document that wraps the list; which one
it is shows in the content, so an ending that says `.json` or `.jsonl` is not trusted.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any

from farss.errors import DataError
from farss.foreign import foreign
from farss.reading import Document, Refused, is_file, loads, stays_inside

SAVED = Document("saved data set", DataError)

Row = dict[str, Any]

LONGEST_LINE = 1 << 28
"""Characters; a whole data set may be one line of JSON."""
MOST_UNPACKED = 1 << 30
"""Characters of a compressed text, or bytes of unpacked columns: a kilobyte can stand for gigabytes."""
BATCH_ROWS = 1000
"""Of a Parquet file, unpacked together."""
WRAPPERS = ("data", "rows", "examples")
"""Keys of a document under which a list of rows is looked for."""
CELL_LIMIT = 2**31 - 1
"""Most characters of one cell; the csv module's own limit (131,072) is below long documents."""


class Lines:
    """The lines of an open text, each of bounded length: a small compressed file may unpack to one without end.

    Args:
        file: the text.
        name: of the file, for messages.
        most: characters of all lines together; None for what lies on the disk as it is read.
    """

    def __init__(self, file: IO[str], name: str, most: int | None = None) -> None:
        self.file, self.name, self.number = file, name, 0
        self.most, self.read = most, 0

    def __iter__(self) -> Iterator[str]:
        return iter(self.readline, "")

    def readline(self) -> str:
        """The next line with its end; empty behind the last.

        Raises:
            DataError: if it is longer than `LONGEST_LINE`, or all together are longer than `most`.
        """
        self.number += 1
        line = self.file.readline(LONGEST_LINE + 1)
        if len(line) > LONGEST_LINE:
            where = f"{self.name}, line {self.number}"
            raise DataError("a line is longer than a row can be", where=where, expected=f"{LONGEST_LINE:,} characters")
        self.read += len(line)
        if self.most is not None and self.read > self.most:
            raise too_much(self.name, self.most)
        return line


def too_much(name: object, most: int) -> DataError:
    """The error of a compressed file that unpacks to more than is read of one."""
    return DataError(
        "the compressed file unpacks to more than is read of one",
        where=name,
        expected=f"at most {most:,} bytes",
        do="if it is as it should be, unpack it (or write Parquet as JSON Lines) and name that file",
    )


def json_rows(file: Lines, name: str) -> list[Row]:
    """The rows of JSON text: lines, a list, columns, or a document with the list under `data`.

    Raises:
        DataError: naming the line, or what the document holds instead of rows.
    """
    lines = ((number, line) for number, line in enumerate(file, start=1) if line.strip())
    first = next(lines, None)
    if first is None:
        return []
    second = next(lines, None)
    rest = lines if second is None else chain([second], lines)
    head, problem = _first_object(first[1], f"{name}, line {first[0]}")
    if second is not None and isinstance(head, dict):
        return [head, *(_object(line, f"{name}, line {number}") for number, line in rest)]
    if problem is None and second is None:
        return _document(head, name)
    if problem is None:
        return [_checked(head, f"{name}, line {first[0]}")]
    return _whole([first, *rest], name, problem if second is not None and "}" in first[1] else None)


def table_rows(file: Lines, name: str) -> list[Row]:
    """The rows of a table whose first line names the columns, divided by comma, semicolon or tab.

    Raises:
        DataError: naming the line whose cells do not fit the header.
    """
    csv.field_size_limit(CELL_LIMIT)
    header = file.readline()
    reader = csv.DictReader(chain([header], file), delimiter=_delimiter(header, name), strict=True)
    rows: list[Row] = []
    try:
        for row in reader:
            if None in row or None in row.values():
                raise DataError(
                    "a row has not as many fields as the header",
                    where=f"{name}, line {reader.line_num}",
                    expected=", ".join(reader.fieldnames or ()),
                )
            rows.append(dict(row))
    except csv.Error as error:
        raise DataError("the CSV file is damaged", where=f"{name}, line {reader.line_num}", got=str(error)) from None
    return rows


def columnar_rows(path: Path, kind: str) -> list[Row]:
    """The rows of a Parquet or Arrow file.

    Raises:
        DataError: if it is damaged, or a Parquet file unpacks to more than `MOST_UNPACKED`.
        OSError: if it cannot be opened.
    """
    # Read by the library under `datasets`, which would first copy the file into its own cache.
    import pyarrow
    import pyarrow.ipc
    import pyarrow.parquet

    what = "the Parquet file is damaged" if kind == ".parquet" else "the Arrow file is damaged"
    with foreign(DataError, what, where=path):
        if kind == ".parquet":
            with pyarrow.parquet.ParquetFile(path) as file:
                return _unpacked(file.iter_batches(BATCH_ROWS), path)
        with pyarrow.memory_map(str(path)) as file:
            return pyarrow.ipc.open_stream(file).read_all().to_pylist()


def _unpacked(batches: Iterable[Any], path: Path) -> list[Row]:
    """The rows of all batches; what the file says of its own sizes is not asked."""
    rows, size = list[Row](), 0
    for batch in batches:
        size += batch.nbytes
        if size > MOST_UNPACKED:
            raise too_much(path, MOST_UNPACKED)
        rows += batch.to_pylist()
    return rows


def is_saved_folder(folder: str | Path) -> bool:
    """Whether `datasets` wrote the folder (`save_to_disk`)."""
    return any(is_file(f"{folder}/{name}") for name in ("dataset_dict.json", "state.json"))


def saved_splits(folder: str | Path) -> tuple[str, ...]:
    """The splits of a folder of `save_to_disk`; none where it holds one set without splits.

    Raises:
        DataError: if its list of splits cannot be read.
    """
    listed = Path(folder) / "dataset_dict.json"
    if not listed.is_file():
        return ()
    splits = SAVED.read_object(listed).get("splits")
    if not isinstance(splits, list) or not all(map(stays_inside, splits)):
        raise DataError("the saved data set is damaged", where=listed, expected="names of splits", got=repr(splits))
    return tuple(splits)


def saved_rows(folder: str | Path, split: str | None) -> list[Row]:
    """The rows of a folder of `save_to_disk`, of one of its splits if it has some.

    Raises:
        DataError: if the folder is damaged.
    """
    import datasets

    place = Path(folder) if split is None else Path(folder) / split
    with foreign(DataError, "the saved data set is damaged", where=place):
        return datasets.Dataset.load_from_disk(str(place)).to_list()


def _loads(text: str, where: str) -> Any:
    try:
        return loads(text)
    except Refused as refused:
        what = f"a row cannot be used: {refused.what}"
        raise DataError(what, where=where, expected=refused.expected, got=refused.got) from None


def _first_object(line: str, where: str) -> tuple[Any, json.JSONDecodeError | None]:
    try:
        return _loads(line, where), None
    except json.JSONDecodeError as error:
        return None, error


def _object(text: str, where: str) -> Row:
    try:
        row = _loads(text, where)
    except json.JSONDecodeError as error:
        raise DataError("a line is not valid JSON", where=where, got=str(error)) from None
    return _checked(row, where)


def _checked(row: object, where: str) -> Row:
    if not isinstance(row, dict):
        raise DataError("a row must be an object with named fields", where=where, got=type(row).__name__)
    return row


def _whole(lines: list[tuple[int, str]], name: str, of_a_line: json.JSONDecodeError | None) -> list[Row]:
    """The rows of a document that spans lines; `of_a_line` is the damage to report if it is none, but lines."""
    try:
        return _document(_loads("".join(line for _, line in lines), name), name)
    except json.JSONDecodeError as error:
        if of_a_line is not None:
            where = f"{name}, line {lines[0][0]}"
            raise DataError("a line is not valid JSON", where=where, got=str(of_a_line)) from None
        where = f"{name}, line {lines[min(error.lineno, len(lines)) - 1][0]}"
        raise DataError("the file is not valid JSON", where=where, got=str(error)) from None


def _document(content: object, name: str) -> list[Row]:
    """The rows of one JSON document."""
    if isinstance(content, list):
        return [_checked(row, f"{name}, row {number}") for number, row in enumerate(content, start=1)]
    if not isinstance(content, dict):
        raise DataError(
            "a JSON data file holds rows", where=name, expected="a list of objects", got=type(content).__name__
        )
    wrapped = [key for key in WRAPPERS if _is_rows(content.get(key))]
    if len(wrapped) == 1:
        return _document(content[wrapped[0]], name)
    if _is_columns(content):
        return [dict(zip(content, row, strict=True)) for row in zip(*content.values(), strict=True)]
    if wrapped or (any(_is_rows(value) for value in content.values()) and not _is_conversation(content)):
        keys = [key for key, value in content.items() if _is_rows(value)]
        raise DataError(
            "it is not clear which part of the document holds the rows",
            where=name,
            expected=" | ".join(WRAPPERS),
            got=", ".join(keys),
            do="write the list of rows alone, or one row a line",
        )
    return [content]


def _is_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _is_conversation(row: Row) -> bool:
    """Whether an object of lists of objects is one row: its lists are a conversation's turns or tools."""
    return any(key in row for key in ("messages", "conversations", "prompt", "instruction"))


def _is_columns(content: Row) -> bool:
    """Whether every value is a list of one length and none holds a row's turns: columns by name."""
    values = list(content.values())
    if not values or not all(isinstance(value, list) and value for value in values):
        return False
    return len({len(value) for value in values}) == 1 and not any(_is_rows(value) for value in values)


def _delimiter(header: str, name: str) -> str:
    """What divides the header: the only one of comma, semicolon and tab outside quotes; the comma of several."""
    outside = "".join(header.split('"')[::2])
    found = [mark for mark in (",", ";", "\t") if mark in outside]
    if name.lower().split(".")[-1] == "tsv" or ".tsv." in name.lower():
        return "\t"
    return found[0] if found else ","
