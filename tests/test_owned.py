"""What farss did not write, or what changed since, is never removed and never written over."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from farss.errors import OutputError
from farss.storage import held, new_folder, write_json
from farss.storage.folders import drop_work, work_folder, work_place
from farss.storage.owned import MARK, check_clear, check_own, clear, is_as_left, remove, seal, take, writing


def everything(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def made(tmp_path):
    """A folder of a verb with two files and a folder of a stage in it."""
    place = tmp_path / "out"
    take(place, "verb")
    with writing(place, "a.json", "inner"):
        write_json(place / "a.json", 1)
        (place / "inner").mkdir()
        (place / "inner" / "b").write_text("b")
    take(place / "stage", "a stage", writing=["weights*"])
    (place / "stage" / "weights.bin").write_text("w")
    return place


def test_clearing_removes_what_was_written_and_keeps_the_folder(made):
    clear(made)
    assert made.is_dir() and not list(made.iterdir())


@pytest.mark.parametrize("place", ["notes.txt", "inner/notes.txt", "stage/notes.txt", "stage/deep/notes.txt", "new/x"])
def test_nothing_is_removed_where_a_file_of_somebody_else_stands(made, place):
    (made / place).parent.mkdir(parents=True, exist_ok=True)
    (made / place).write_text("mine")
    before = everything(made)
    with pytest.raises(OutputError, match="was not written by farss") as caught:
        clear(made)
    assert place in str(caught.value) and everything(made) == before


@pytest.mark.parametrize("place", ["a.json", "inner/b"])
def test_a_file_changed_since_is_the_users(made, place):
    (made / place).write_text("edited")
    before = everything(made)
    for act in (clear, lambda folder: check_own(folder, "verb", [place.partition("/")[0]])):
        with pytest.raises(OutputError):
            act(made)
    with pytest.raises(OutputError), writing(made, place.partition("/")[0]):
        pytest.fail("the block began")
    assert everything(made) == before


def test_links_are_the_users(made, tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.txt").write_text("years")
    (made / "stage" / "weights-link").symlink_to(tmp_path / "theirs")
    with pytest.raises(OutputError):
        clear(made)
    assert (tmp_path / "theirs" / "thesis.txt").read_text() == "years"


def test_a_sealed_folder_counts_its_files_and_no_patterns(tmp_path):
    take(tmp_path / "s", "a stage", writing=["*.json"])
    write_json(tmp_path / "s" / "one.json", 1)
    seal(tmp_path / "s", "a stage")
    check_clear(tmp_path / "s")
    (tmp_path / "s" / "two.json").write_text("mine")
    with pytest.raises(OutputError, match=r"two\.json"):
        clear(tmp_path / "s")


def test_a_killed_write_does_not_make_a_file_somebody_elses(made):
    with pytest.raises(KeyboardInterrupt), writing(made, "a.json", "c.json"):
        write_json(made / "a.json", "half")
        (made / ".farss-abc").write_text("on its way")
        raise KeyboardInterrupt
    check_own(made, "verb", ["a.json", "c.json"])
    clear(made)
    assert not list(made.iterdir())


@pytest.mark.parametrize("step", range(1, 20))
def test_a_killed_clearing_is_finished_by_the_next(made, monkeypatch, step):
    """Killed at every single removal, of files and of emptied folders."""
    calls = iter(range(1, 1000))

    def killed_at(removal):
        def remove_or_die(path, *arguments, **options):
            if next(calls) == step:
                raise KeyboardInterrupt
            return removal(path, *arguments, **options)

        return remove_or_die

    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(Path, "unlink", killed_at(Path.unlink))
        patch.setattr(Path, "rmdir", killed_at(Path.rmdir))
        clear(made)
    check_own(made, "verb", ["a.json"])
    clear(made)
    assert made.is_dir() and not list(made.iterdir())


def test_removing_a_part_leaves_what_is_not_of_farss(made):
    (made / "inner" / "mine").write_text("mine")
    remove(made, "inner")
    assert everything(made / "inner") == {next(iter(everything(made / "inner"))): b"mine"}
    assert not (made / "inner" / "b").exists()


@pytest.mark.parametrize(
    "mark", ["mine", "[]", '{"schema_version": 99}', '{"schema_version": 1, "verb": 3, "files": {}}']
)
def test_a_file_that_is_no_mark_is_left(tmp_path, mark):
    (tmp_path / MARK).write_text(mark)
    for act in (lambda: take(tmp_path, "verb"), lambda: check_own(tmp_path, "verb"), lambda: clear(tmp_path)):
        with pytest.raises(OutputError):
            act()
    assert (tmp_path / MARK).read_text() == mark


def test_a_lock_with_words_in_it_is_not_emptied(tmp_path):
    (tmp_path / ".lock").write_text("combination: 1234")
    with pytest.raises(OutputError):
        check_own(tmp_path, "verb")
    assert (tmp_path / ".lock").read_text() == "combination: 1234"


def test_folders_from_before_the_mark_are_named_and_left(tmp_path):
    write_json(tmp_path / "started.json", {"key": "x"})
    with pytest.raises(OutputError, match="older farss"):
        check_own(tmp_path, "verb")


def test_the_folder_of_another_verb_is_refused(made):
    with pytest.raises(OutputError, match=r"or one of `farss other`[\s\S]*one that farss wrote \(verb\)"):
        check_own(made, "other")


def test_a_new_folder_is_marked_and_fills_an_empty_one_in_place(tmp_path):
    (tmp_path / "empty").mkdir()
    number = (tmp_path / "empty").stat().st_ino
    for name in ("empty", "new"):
        with new_folder(tmp_path / name, "export") as folder:
            (folder / "file").write_text("x")
        check_clear(tmp_path / name)
        assert is_as_left(tmp_path / name / "file")
    assert (tmp_path / "empty").stat().st_ino == number
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "new"]


def test_a_new_folder_may_be_filled_as_a_new_folder(tmp_path):
    with new_folder(tmp_path / "out", "export") as folder, new_folder(folder) as inner:
        (inner / "file").write_text("x")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [MARK, "file"]
    check_clear(tmp_path / "out")


def test_what_an_interrupted_call_keeps_goes_when_it_is_done_and_never_takes_others_along(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), work_folder(out, ["part*"]) as work:
        (work / "part-1").write_text("sums")
        raise KeyboardInterrupt
    with work_folder(out, ["part*"]) as work:
        assert (work / "part-1").exists()
    assert not work_place(out).exists()
    work_place(out).mkdir()
    (work_place(out) / "notes").write_text("mine")
    with pytest.raises(OutputError), work_folder(out, ["part*"]):
        pytest.fail("the block began")
    drop_work(out)
    assert (work_place(out) / "notes").read_text() == "mine"


def test_a_held_folder_is_cleared_without_letting_go_of_it(made):
    with held(made):
        number = (made / ".lock").stat().st_ino
        clear(made)
        assert os.listdir(made) == [".lock"] and (made / ".lock").stat().st_ino == number
