"""Which files are farss's own: every folder that it makes holds a mark, and the mark lists what was written.

What is not listed, or was changed since, belongs to the user. It is never removed and never written over: where it is
in the way the request is refused, with everything as it was.

The mark is `.farss.json`: `schema_version`, the `verb` that made the folder, `files` (path -> digest of what was
written) and, while something is being written, `writing`: the names whose content is not known yet.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from farss.errors import OutputError
from farss.reading import Document
from farss.storage.files import TEMPORARY, write_json

MARK, LOCK = ".farss.json", ".lock"
"""The mark, and the file by which a process holds a folder."""
SCHEMA_VERSION = 1
HASHED_WHOLE, PIECE = 64 << 20, 1 << 20
"""Larger files are told apart by their size and their two ends."""
FORMER = ("done.json", "started.json", "plan.json", "inputs.json", "train.json", "results.json", "inspect.json")
"""Of these farss folders had one before they were marked."""
SHOWN = 4
ELSEWHERE = "choose another --out"
MARK_FILE = Document("mark of farss", OutputError, most_bytes=HASHED_WHOLE, damaged=ELSEWHERE)


def check_own(folder: str | Path, verb: str, files: Sequence[str] = ()) -> None:
    """Make sure that `verb` may work in a folder: that it is not there, is empty, or was made by it.

    Args:
        folder: there or not.
        verb: that is to work in it.
        files: names in it that will be written; each must be as farss left it, or not there.

    Raises:
        OutputError: saying what is in the way; nothing was touched.
    """
    place = Path(folder)
    if not place.is_dir():
        if os.path.lexists(place):
            raise OutputError("the output folder is a file", where=place, do="choose another --out")
        return
    _check_lock(place)
    mark = read_mark(place)
    if mark is None:
        if others := _entries(place):
            raise _foreign(place, others)
        return
    if mark["verb"] != verb:
        raise OutputError(
            "the output folder is not empty",
            where=place,
            expected=f"a new folder, or one of `farss {verb}`" if verb else "a new folder",
            got=f"one that farss wrote ({mark['verb']})",
            do="choose another --out, or remove it",
        )
    for name in files:
        _check_part(place, name, mark)


def read_mark(folder: str | Path) -> dict[str, Any] | None:
    """The mark of a folder that farss made; None where there is none.

    Raises:
        OutputError: if it is damaged, or of a later version of farss.
    """
    path = Path(folder) / MARK
    if not path.is_file() or path.is_symlink():
        return None
    mark = MARK_FILE.read_object(path)
    good = mark.get("schema_version") == SCHEMA_VERSION and isinstance(mark.get("verb"), str)
    if not (good and isinstance(mark.get("files"), dict) and isinstance(mark.get("writing", []), list)):
        raise OutputError("the mark of farss in this folder cannot be read", where=path, do=ELSEWHERE)
    return mark


def take(folder: str | Path, verb: str, writing: Sequence[str] = ()) -> None:
    """Make a folder, if need be, and mark it as made by `verb`; one that is marked already stays as it is.

    Args:
        folder: new, empty, or made by `verb` (`check_own`).
        verb: that works in it.
        writing: names (with `*` and `?`) of files and folders in it that the work will fill until `seal`.

    Raises:
        OutputError: as for `check_own`.
        StorageError: if it cannot be written.
    """
    place = Path(folder)
    check_own(place, verb)
    if read_mark(place) is None:
        _write(place, {"schema_version": SCHEMA_VERSION, "verb": verb, "files": {}, "writing": list(writing)})


def seal(folder: str | Path, verb: str) -> None:
    """Record everything in a folder as written by `verb`: its work is done, and what comes later is another's."""
    place = Path(folder)
    files = {path.relative_to(place).as_posix(): digest(path) for path in _all_files(place) if path != place / MARK}
    _write(place, {"schema_version": SCHEMA_VERSION, "verb": verb, "files": files})


@contextmanager
def writing(folder: str | Path, *names: str) -> Iterator[None]:
    """Files and folders in a marked folder, written by the block (anew or for the first time) and recorded afterwards.

    Raises:
        OutputError: if one of them is not as farss left it; nothing was touched.
    """
    place = Path(folder)
    mark = _mark_of(place)
    for name in names:
        _check_part(place, name, mark)
    files = {file: value for file, value in mark["files"].items() if not _under(file, names)}
    _write(place, {**mark, "files": files, "writing": sorted({*mark.get("writing", []), *names})})
    yield
    mark = _mark_of(place)
    found = {file.relative_to(place).as_posix(): digest(file) for name in names for file in _all_files(place / name)}
    left = [name for name in mark.get("writing", []) if name not in names]
    _write(place, {**mark, "files": mark["files"] | found, "writing": left})


def clear(folder: str | Path) -> None:
    """Remove everything from a marked folder, what the folders marked in it hold included.

    The folder itself stays, and its lock, which a process may hold.

    Raises:
        OutputError: if something in it was not written by farss, or changed since; nothing was removed.
    """
    place = Path(folder)
    if place.is_dir():
        files = [file for file in check_clear(place) if file != place / LOCK]
        emptied = [Path(inner) for inner, _, names in os.walk(place) if not names]  # by a call that was killed
        _unlink(files, place, emptied)


def check_clear(folder: str | Path) -> list[Path]:
    """The files that `clear` would remove: all there are.

    Raises:
        OutputError: as for `clear`.
    """
    place = Path(folder)
    own, others = _divide(place, read_mark(place), place)
    if others:
        raise _foreign(place, [str(path.relative_to(place)) for path in others], kept=True)
    return own


def remove(folder: str | Path, name: str) -> None:
    """Remove a folder in a marked folder that `writing` wrote; what is not farss's own in it stays."""
    place = Path(folder)
    mark = _mark_of(place)
    inner = place / name
    if inner.is_dir() and not inner.is_symlink():
        _unlink(_divide(inner, mark, place)[0], place)
    files = {file: value for file, value in mark["files"].items() if not _under(file, (name,))}
    _write(place, {**mark, "files": files, "writing": [part for part in mark.get("writing", []) if part != name]})


def is_listed(folder: str | Path, name: str) -> bool:
    """Whether the mark of a folder lists something of this name, whole or being written."""
    mark = read_mark(folder)
    return mark is not None and _covered(name, mark)


def is_as_left(file: str | Path) -> bool:
    """Whether a file is one that farss wrote into a folder of its own, unchanged."""
    path = Path(file)
    try:
        mark = read_mark(path.parent)
    except (OutputError, ValueError):
        return False
    return mark is not None and path.name in mark["files"] and _is_own(path, path.name, mark)


def digest(path: Path) -> str:
    """What tells the content of a file from any other: SHA-256, of size and both ends where it is large."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= HASHED_WHOLE:
            return hashlib.sha256(file.read()).hexdigest()
        ends = [file.read(PIECE)]
        file.seek(size - PIECE)
        ends.append(file.read(PIECE))
    return hashlib.sha256(b"".join([str(size).encode(), *ends])).hexdigest()


def _mark_of(place: Path) -> dict[str, Any]:
    mark = read_mark(place)
    if mark is None:
        raise OutputError("the mark of farss in this folder is gone", where=place / MARK, do="choose another --out")
    return mark


def _write(place: Path, mark: dict[str, Any]) -> None:
    write_json(place / MARK, {key: value for key, value in mark.items() if key != "writing" or value})


def _check_part(place: Path, name: str, mark: dict[str, Any]) -> None:
    """Refuse to write over a file, or a folder with something in it, that is not as farss left it."""
    path = place / name
    if path.is_dir() and not path.is_symlink():
        fits = not _divide(path, mark, place)[1]
    else:
        fits = not os.path.lexists(path) or _is_own(path, name, mark)
    if not fits:
        raise OutputError(
            "something in the output folder is not as farss left it, and would be written over",
            where=path,
            do="move it away, or choose another --out",
        )


def _is_own(path: Path, name: str, mark: dict[str, Any]) -> bool:
    """Whether a file was written by farss and is as it was left."""
    if path.is_symlink() or not path.is_file():
        return False
    recorded = mark["files"].get(name)
    return _in_work(name, mark) if recorded is None else recorded == digest(path)


def _divide(place: Path, mark: dict[str, Any] | None, root: Path) -> tuple[list[Path], list[Path]]:
    """The files under `place` that are farss's own, and those that are not; `mark` is of `root`, around `place`.

    A folder that the mark says nothing of is judged by its own mark.
    """
    own: list[Path] = []
    others: list[Path] = []
    for path in sorted(place.iterdir()):
        name = path.relative_to(root).as_posix()
        if path.is_dir() and not path.is_symlink():
            inner = None if _covered(name, mark) else read_mark(path)
            mine, rest = _divide(path, mark, root) if inner is None else _divide(path, inner, path)
            own, others = own + mine, others + rest
        elif _is_ours_by_name(path) or (mark is not None and _is_own(path, name, mark)):
            own.append(path)
        else:
            others.append(path)
    return own, others


def _is_ours_by_name(path: Path) -> bool:
    """Marks, locks, and what a killed call left on its way to its place."""
    if path.name == MARK:
        return read_mark(path.parent) is not None
    return (path.name == LOCK and _is_lock(path)) or path.name.startswith(TEMPORARY)


def _covered(name: str, mark: dict[str, Any] | None) -> bool:
    """Whether a mark says what is in the folder `name`."""
    return mark is not None and (_in_work(name, mark) or any(_under(file, (name,)) for file in mark["files"]))


def _in_work(name: str, mark: dict[str, Any]) -> bool:
    return any(fnmatch(name.partition("/")[0], pattern) for pattern in mark.get("writing", []))


def _under(file: str, names: Sequence[str]) -> bool:
    return any(file == name or file.startswith(f"{name}/") for name in names)


def _unlink(files: Sequence[Path], place: Path, emptied: Sequence[Path] = ()) -> None:
    """Remove files, and the folders under `place` that are empty then, those of `emptied` too.

    The mark of `place` goes after everything else: what is left when this is killed, be it an empty folder, stays ours.
    """
    for path in sorted(files, key=lambda path: (path.name == MARK, -len(path.parts))):
        if path != place / MARK:
            path.unlink(missing_ok=True)
    folders = {parent for path in files for parent in path.parents} | {*emptied}
    for folder in sorted(folders, key=lambda path: -len(path.parts)):
        if place in folder.parents and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    if place / MARK in files:
        (place / MARK).unlink(missing_ok=True)


def _all_files(place: Path) -> list[Path]:
    """Every regular file under `place`, or that file itself; not what belongs to the mark."""
    walked = [Path(inner) / name for inner, _, names in os.walk(place) for name in names] or [place]
    found = [path for path in walked if path.is_file() and not path.is_symlink()]
    return sorted(path for path in found if not path.name.startswith(TEMPORARY) and path.name != LOCK)


def _entries(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir() if path.name != LOCK and not path.name.startswith(TEMPORARY))


def _is_lock(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISREG(status.st_mode) and status.st_size == 0


def _check_lock(place: Path) -> None:
    """A lock is an empty file; taking one that is not would empty it."""
    path = place / LOCK
    if os.path.lexists(path) and not _is_lock(path):
        raise OutputError("the output folder is not empty", where=place, got=LOCK, do="choose another --out")


def _foreign(place: Path, others: Sequence[str], *, kept: bool = False) -> OutputError:
    shown = ", ".join(others[:SHOWN]) + (f" and {len(others) - SHOWN} more" if len(others) > SHOWN else "")
    if kept:
        return OutputError(
            "something in the folder was not written by farss, or changed since, and would be removed",
            where=place,
            got=shown,
            do="move it away, or choose another --out",
        )
    if any((place / name).is_file() for name in FORMER):
        return OutputError(
            "the output folder is not empty: an older farss made it, and left no list of what is its own",
            where=place,
            got=shown,
            do="choose another --out, or remove it",
        )
    return OutputError("the output folder is not empty", where=place, got=shown, do="choose another --out")
