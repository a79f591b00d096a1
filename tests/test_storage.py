"""A file or folder is there whole, or as it was before."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from farss.errors import StorageError
from farss.storage import held, new_folder, read_tensors, write_atomically, write_json, write_tensors


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})
    before = path.read_text()

    def fail(file):
        file.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="No space left"):
        write_atomically(path, fail)
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


def test_unwritable_place(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match="could not be written"):
        write_json(tmp_path / "file" / "inner.json", {})


def test_tensors_round_trip_and_damage(tmp_path):
    path = tmp_path / "t.safetensors"
    write_tensors(path, {"a": torch.arange(6.0).reshape(2, 3).T}, {"k": "v"})
    tensors, metadata = read_tensors(path)
    assert torch.equal(tensors["a"], torch.arange(6.0).reshape(2, 3).T)
    assert metadata == {"k": "v"}
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(StorageError, match="cannot be read"):
        read_tensors(path)


def test_new_folder_appears_only_when_complete(tmp_path):
    with pytest.raises(ValueError, match="stop"), new_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("x")
        raise ValueError("stop")
    assert not list(tmp_path.iterdir())
    with new_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("x")
    assert (tmp_path / "out" / "file").read_text() == "x"
    with pytest.raises(StorageError, match="not empty"), new_folder(tmp_path / "out"):
        pass


def test_a_held_folder_is_refused_to_others_and_free_afterwards(tmp_path):
    with (
        held(tmp_path / "run"),
        pytest.raises(StorageError, match="another process is at work"),
        held(tmp_path / "run"),
    ):
        pass
    with held(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()


def test_a_hold_ends_with_its_process(tmp_path):
    hold = f"import os; from farss.storage import held; held({str(tmp_path)!r}).__enter__(); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", hold], check=False).returncode == 9
    with held(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be used"), held(tmp_path / "file" / "run"):
        pass


def test_equal_content_gives_equal_bytes(tmp_path):
    notes = {f"key {i}": f'value "{i}" é' for i in range(9)}
    tensors = {"a": torch.arange(5.0), "b": torch.ones(2, 3, dtype=torch.bfloat16)}
    write_tensors(tmp_path / "one", tensors, notes)
    write_tensors(tmp_path / "other", tensors, dict(reversed(notes.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    read, metadata = read_tensors(tmp_path / "one")
    assert metadata == notes and all(torch.equal(value, tensors[name]) for name, value in read.items())
