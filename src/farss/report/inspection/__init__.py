"""The report of `farss inspect`: one self-contained page, one JSON file beside it, and a table for the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from farss.report.inspection.page import render
from farss.report.inspection.terminal import print_inspection
from farss.storage import write_atomically, write_json

__all__ = ["SCHEMA_VERSION", "print_inspection", "render", "write_inspection"]

SCHEMA_VERSION = 1
DATA, PAGE = "inspect.json", "inspect.html"


def write_inspection(report: dict[str, Any], folder: str | Path) -> tuple[Path, Path]:
    """Write `inspect.json` and `inspect.html` into `folder`, each atomically.

    Args:
        report: what `farss.experiment.inspection.inspecting.inspect` found.
        folder: made if missing.

    Returns:
        The paths of the JSON and of the HTML file.

    Raises:
        StorageError: if the folder cannot be written.
    """
    data, page = Path(folder) / DATA, Path(folder) / PAGE
    write_json(data, report)
    text = render(report)
    write_atomically(page, lambda file: file.write_text(text, encoding="utf-8"))
    return data, page
