"""The sha256 of a model's weight files, which are read for it once and not by every process that uses the model."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

from farss.errors import StorageError
from farss.reading import TEXT, Document, object_of, unless_damaged
from farss.storage import write_json

NOTE = Document("note of a weight file's digest", StorageError)
NOTED = object_of(files=TEXT, sha256=TEXT)
SETTLED = 2_000_000_000
"""Nanoseconds after its last change from which on a further one shows in a file's time, on any file system."""
BLOCK_BYTES = 1 << 20


def noted_digest(files: Sequence[Path], note: Path) -> str:
    """The sha256 of files, one behind the other, as 64 hexadecimal digits.

    Args:
        files: a weight file, or its pieces in order.
        note: where it is written down; what stands there holds while names, sizes and times of the files do.
    """
    stats = [(file.resolve(), file.stat()) for file in files]
    seen = repr([(str(path), found.st_size, found.st_mtime_ns) for path, found in stats])
    known = unless_damaged(lambda: NOTE.read_as(note, NOTED), "the file is read again") if note.is_file() else None
    if known is not None and known["files"] == seen:
        return known["sha256"]
    digest = joined_digest(files)
    if max(found.st_mtime_ns for _, found in stats) + SETTLED < time.time_ns():
        with contextlib.suppress(StorageError):  # a cache that cannot be written costs time, and nothing else
            write_json(note, {"files": seen, "sha256": digest})
    return digest


def joined_digest(files: Sequence[Path]) -> str:
    """As `noted_digest`, by reading the files."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            while block := opened.read(BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()
