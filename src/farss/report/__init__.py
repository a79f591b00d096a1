"""Reports: one self-contained HTML page, one JSON file beside it, and a table for the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from farss.errors import DataError
from farss.reading import Document
from farss.report.html import render
from farss.report.schema import validate
from farss.report.terminal import print_report, table
from farss.storage import write_atomically, write_json

__all__ = ["print_report", "read_report", "render", "table", "validate", "write_report"]


REPORT = Document("report", DataError, most_bytes=256 << 20)


def read_report(path: str | Path) -> dict[str, Any]:
    """The content of a report.json, to be shown again.

    Raises:
        DataError: if the file is missing or damaged.
        FarssError: if it is malformed, or of another version of the schema.
    """
    report = REPORT.read_object(path)
    validate(report)
    return report


def write_report(report: dict[str, Any], folder: str | Path) -> tuple[Path, Path]:
    """Write `report.json` and `report.html` into `folder`, each atomically.

    The JSON is written before it is checked, so that a mistake in one record cannot cost the results of a long run.

    Args:
        report: the content of report.json.
        folder: made if missing.

    Returns:
        The paths of the JSON and of the HTML file.

    Raises:
        FarssError: if the report is malformed; the JSON is then there, the page is as it was before.
        StorageError: if the folder cannot be written.
    """
    data, page = Path(folder) / "report.json", Path(folder) / "report.html"
    write_json(data, report)
    validate(report)
    text = render(report)

    def write(file: Path) -> None:
        file.write_text(text, encoding="utf-8")

    write_atomically(page, write)
    return data, page
