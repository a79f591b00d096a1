"""Folders as a whole: held by one process, there when complete, or kept beside a result until it is done."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from farss.errors import OutputError, StorageError
from farss.storage.disk import full_disk
from farss.storage.files import TEMPORARY
from farss.storage.owned import LOCK, MARK, check_clear, check_own, clear, seal, take

WORK = "work"


@contextmanager
def held(folder: str | Path) -> Iterator[None]:
    """The folder made and held by this process alone; the hold ends with the block, or with the process.

    Raises:
        StorageError: if another process holds it, or it cannot be made.
    """
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place / LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        raise StorageError(
            "another process is at work in this folder",
            where=place,
            do="wait for it, end it, or choose another --out",
        ) from None
    except OSError as error:
        unusable = StorageError("the folder cannot be used", where=place, got=str(error))
        raise full_disk(error, place) or unusable from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def new_folder(path: str | Path, verb: str = "folder") -> Iterator[Path]:
    """A temporary folder that becomes `path`, marked as made by `verb`, when the block succeeds; else it vanishes.

    A folder that is there already is filled and not replaced: it may be one that other disks are mounted on.

    Raises:
        OutputError: if `path` is a non-empty folder.
        StorageError: if it cannot be written.
    """
    place = Path(os.path.realpath(path))
    check_new(path)
    there = place.is_dir()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=place if there else place.parent))
    except OSError as error:
        unmade = StorageError("the output folder cannot be made", where=path, got=str(error))
        raise full_disk(error, place) or unmade from error
    try:
        yield temporary
        seal(temporary, verb)
        temporary.chmod(0o755)
        if there:
            for part in sorted(temporary.iterdir(), key=lambda part: part.name == MARK):
                part.replace(place / part.name)
        else:
            temporary.replace(place)
    except OSError as error:
        unfilled = StorageError("the output folder could not be filled", where=path, got=str(error))
        raise full_disk(error, place) or unfilled from error
    finally:
        _discard(temporary)


def check_new(path: str | Path) -> None:
    """Refuse an output folder that holds something.

    Raises:
        OutputError: if it does.
    """
    place = Path(path)
    check_own(place, "")  # no verb goes on in a folder that is to be new
    if place.is_dir() and (place / MARK).exists():
        raise OutputError("the output folder is not empty", where=path, do="choose another --out, or remove it")


def work_place(out: str | Path) -> Path:
    """Where what an interrupted call keeps lies until `out` is made: beside it."""
    place = Path(out)
    return place.with_name(f".{place.name}.work")


@contextmanager
def work_folder(out: str | Path, writing: Sequence[str]) -> Iterator[Path]:
    """`work_place(out)`, held by this process; it goes when the block succeeds, and stays for the next call otherwise.

    Args:
        out: what is to be made.
        writing: names of what is kept there.

    Raises:
        OutputError: if it holds what farss did not write.
        StorageError: if it cannot be written, or another process is at work there.
    """
    place = work_place(out)
    check_work(out)
    with held(place):
        take(place, WORK, writing)
        yield place
        drop_work(out)


def check_work(out: str | Path) -> None:
    """Make sure that what is kept beside `out` was written by farss.

    Raises:
        OutputError: if something was not; nothing was touched.
    """
    place = work_place(out)
    check_own(place, WORK)
    if place.is_dir():
        check_clear(place)


def drop_work(out: str | Path) -> None:
    """Remove what an interrupted call kept beside `out`, unless something there is not farss's own."""
    place = work_place(out)
    if place.is_dir():
        with contextlib.suppress(OutputError):
            check_own(place, WORK)
            clear(place)
            (place / LOCK).unlink(missing_ok=True)
        if not any(place.iterdir()):
            place.rmdir()


def _discard(temporary: Path) -> None:
    """Remove a folder that only this process has written in."""
    import shutil

    shutil.rmtree(temporary, ignore_errors=True)
