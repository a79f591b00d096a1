"""An output that cannot be, or that would be mixed with what is read, is refused before anything begins."""

from __future__ import annotations

import errno
import os
import shutil

import pytest
from safetensors import SafetensorError

from farss.errors import OutputError, ResourceError, StorageError
from farss.storage import disk, write_json
from farss.storage.disk import full_disk
from farss.storage.places import check_file_place, check_place


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "models" / "mine"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (tmp_path / "alias").symlink_to(folder)
    return folder


@pytest.mark.parametrize(
    "out",
    [
        *(
            "models/mine",
            "models/mine/eval",
            "models/mine/a/b",
            "models",
            "models/../models/mine/.",
            "alias",
            "alias/x",
        ),
        *("alias/../mine/x", "."),
    ],
)
def test_an_output_in_above_or_at_an_input_is_refused(model, tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    for given in (model, "models/mine", "alias", model / ".." / "mine"):
        with pytest.raises(OutputError, match="mixed with what is read: the model"):
            check_place(out, {"the model": given})
    assert [path.name for path in model.iterdir()] == ["config.json"]


def test_an_output_beside_its_inputs_is_fine(model, tmp_path):
    inputs = {"the model": model, "a hub model": "some/model", "nothing": None, "strange": "a\0b"}
    assert check_place(tmp_path / "models" / "other", inputs) == tmp_path / "models" / "other"
    assert check_place(tmp_path / "models" / "mine-2", inputs)
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["mine"]


@pytest.mark.parametrize("name", ["", "a\0b", "a\nb", "esc\x1b[31m", "x" * 300, "d/" * 2500, "x" * 250, "\udcff"])
def test_impossible_names_are_refused_in_short(tmp_path, name):
    for check in (check_place, check_file_place):
        with pytest.raises(OutputError) as caught:
            check(f"{tmp_path}/{name}" if name else name)
        text = str(caught.value)
        assert len(text) < 600 and "\0" not in text and "\x1b" not in text


def test_what_is_no_folder_is_refused_and_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "ring").symlink_to(tmp_path / "ring")
    for name in ("pipe", "file", "nowhere", "ring", "file/out", "file/deep/out", "pipe/out"):
        with pytest.raises(OutputError):
            check_place(tmp_path / name)
    with pytest.raises(OutputError, match="there already"):
        check_file_place(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_takes_no_file_is_refused(tmp_path, monkeypatch):
    def refuse(*args, **keywords):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(OutputError, match="read-only"):
        check_place(tmp_path / "out")


def test_next_to_no_space_is_said_with_what_is_free(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(1_000_000, 998_900, 1_100))
    with pytest.raises(ResourceError, match="1,100 of 1,000,000 bytes free"):
        check_place(tmp_path / "out")


@pytest.mark.case("a full disk is named, whoever says so")
@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/weights.bin"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
    ],
)
def test_a_full_disk_is_told_from_other_failures(tmp_path, monkeypatch, error):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(2_000_000, 2_000_000, 0))
    try:
        raise RuntimeError("wrapped by a library") from error
    except RuntimeError as wrapped:
        found = full_disk(wrapped, tmp_path / "out")
    assert found is not None and "the disk is full" in str(found) and "0 of 2,000,000 bytes free" in str(found)
    assert str(error.filename if getattr(error, "filename", None) else tmp_path / "out") in str(found)


def test_other_failures_are_no_full_disk(tmp_path):
    for error in (OSError(errno.EACCES, "Permission denied"), RuntimeError("PytorchStreamWriter failed"), ValueError()):
        assert full_disk(error, tmp_path) is None


def test_a_write_to_a_full_disk_names_the_file_and_the_space(tmp_path, monkeypatch):
    def full(*args, **keywords):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.mkstemp", full)
    with pytest.raises(StorageError, match="the disk is full") as caught:
        write_json(tmp_path / "results.json", {})
    assert str(tmp_path / "results.json") in str(caught.value) and "bytes free" in str(caught.value)


def test_the_disk_of_a_path_that_is_not_there_is_that_of_its_folder(tmp_path):
    assert disk.free_bytes(tmp_path / "a" / "b") > 0 and disk.standing(tmp_path / "a" / "b") == tmp_path
