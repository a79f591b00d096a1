"""A weight file is hashed once, and again only where it may have changed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from farss.model import digests

LONG_AGO = 10**18
"""Nanoseconds of a time long past: a file of this time is not being written any more."""


@pytest.fixture
def weights(tmp_path) -> list[Path]:
    files = [tmp_path / "a-1.gguf", tmp_path / "a-2.gguf"]
    for file in files:
        _write(file, file.name.encode())
    return files


@pytest.fixture
def read(monkeypatch) -> list[int]:
    found, joined = list[int](), digests.joined_digest
    monkeypatch.setattr(digests, "joined_digest", lambda files: found.append(1) or joined(files))
    return found


def _write(file: Path, content: bytes, at: int = LONG_AGO) -> None:
    file.write_bytes(content)
    os.utime(file, ns=(at, at))


def test_what_was_noted_is_not_read_again(weights, read, tmp_path):
    expected = hashlib.sha256(b"a-1.ggufa-2.gguf").hexdigest()
    assert [digests.noted_digest(weights, tmp_path / "note.json") for _ in range(3)] == [expected] * 3
    assert len(read) == 1


@pytest.mark.parametrize("at", [LONG_AGO + 1, LONG_AGO])
def test_a_file_of_another_time_or_size_is(weights, read, tmp_path, at):
    before = digests.noted_digest(weights, tmp_path / "note.json")
    _write(weights[1], b"A-2.gguf" if at > LONG_AGO else b"longer", at)
    assert digests.noted_digest(weights, tmp_path / "note.json") != before and len(read) == 2


def test_a_file_that_was_written_just_now_is_not_trusted_by_its_time(weights, read, tmp_path):
    weights[0].write_bytes(b"now")
    for _ in range(2):
        digests.noted_digest(weights, tmp_path / "note.json")
    assert len(read) == 2


def test_a_damaged_note_is_as_none(weights, read, tmp_path):
    before = digests.noted_digest(weights, tmp_path / "note.json")
    (tmp_path / "note.json").write_text("{")
    with pytest.warns(match="read again"):
        assert digests.noted_digest(weights, tmp_path / "note.json") == before
