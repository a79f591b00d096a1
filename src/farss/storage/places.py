"""Where results are to go: a place that can be written, and that is no part of what is read."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from farss.errors import OutputError
from farss.storage.disk import LEAST_BYTES, require_space, standing

UNWRITABLE = {"Cc", "Cs"}
"""Control characters, NUL among them, and bytes that are no text: terminals cannot show them, JSON cannot hold them."""
LONGEST_PATH = 4096
ROOM_IN_NAME, ROOM_IN_PATH = 16, 256
"""Bytes left for what is put around the name of a folder while it is made, and for what lies in it."""
ELSEWHERE = "choose another --out"


def check_place(out: str | Path, inputs: Mapping[str, str | Path | None] | None = None) -> Path:
    """Make sure, before anything is read or measured, that a folder `out` can be made or written.

    Nothing is left behind. What a folder that is already there holds is looked at by `farss.storage.owned`.

    Args:
        out: the folder, there or not.
        inputs: what is read, by what it is called; names that stand for nothing on this machine, and None, are passed.

    Returns:
        `out` as a path.

    Raises:
        OutputError: if the name is impossible, something else has it, it cannot be written, or it is, holds or lies
            in an input.
        ResourceError: if there is next to no space.
    """
    place = _named(out)
    found = _status(place)
    if found is not None and not stat.S_ISDIR(found.st_mode):
        raise OutputError("the output folder is a file", where=out, got=_kind(found), do=ELSEWHERE)
    keep_apart(place, inputs or {})
    _try_to_write(standing(place), place)
    require_space(place, LEAST_BYTES, "the smallest result")
    return place


def check_file_place(out: str | Path, inputs: Mapping[str, str | Path | None] | None = None) -> Path:
    """As `check_place`, for a new file.

    Raises:
        OutputError: if something is there, or as for `check_place`.
    """
    place = _named(out)
    if (found := _status(place)) is not None:
        raise OutputError("the output file is there already", where=out, got=_kind(found), do=ELSEWHERE)
    keep_apart(place, inputs or {})
    _try_to_write(standing(place), place)
    require_space(place, LEAST_BYTES, "the smallest result")
    return place


def keep_apart(out: str | Path, inputs: Mapping[str, str | Path | None]) -> None:
    """Refuse an output that is, holds or lies in an input, whatever links and dots either path goes through.

    Raises:
        OutputError: naming the input.
    """
    place = Path(os.path.realpath(_named(out)))
    around = _identities(place)
    for name, given in inputs.items():
        read = None if given is None else _existing(Path(given).expanduser())
        if read is None:
            continue
        within = _identities(read)
        if within[0] in around or (place.exists() and around[0] in within):
            raise OutputError(
                f"the output would be mixed with what is read: {name}",
                where=out,
                expected="a folder that neither holds an input nor lies in one",
                got=given,
                do=ELSEWHERE,
            )


def _identities(path: Path) -> list[tuple[int, int]]:
    """Device and number of a resolved path (if it is there) and of every folder around it, innermost first."""
    found = []
    for part in (path, *path.parents):
        try:
            status = part.stat()
        except OSError:
            continue
        found.append((status.st_dev, status.st_ino))
    return found


def _existing(path: Path) -> Path | None:
    try:
        return path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError):  # nothing there, a ring of links, or no path at all
        return None


def _named(out: str | Path) -> Path:
    """The path, if a folder of this name is possible."""
    text = str(out)
    if not text:
        raise OutputError("the output has no name", where="--out", expected="a folder", got=repr(text))
    if any(unicodedata.category(character) in UNWRITABLE for character in text):
        raise OutputError(
            "the output's name has characters that cannot be shown", where="--out", got=ascii(text), do=ELSEWHERE
        )
    place = Path(text)
    longest = _longest_name(standing(Path("."))) - ROOM_IN_NAME
    parts = max((len(os.fsencode(part)) for part in place.parts), default=0)
    whole = len(os.fsencode(place.absolute()))
    if parts > longest or whole > LONGEST_PATH - ROOM_IN_PATH:
        raise OutputError(
            "the output's name is too long",
            where="--out",
            expected=f"at most {longest} bytes a part and {LONGEST_PATH - ROOM_IN_PATH} in all",
            got=f"{parts} and {whole}, beginning {text[:40]}",
            do=ELSEWHERE,
        )
    return place


def _longest_name(folder: Path) -> int:
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # a system that does not say
        return 255


def _status(place: Path) -> os.stat_result | None:
    """What is at `place`, links followed; None for nothing."""
    try:
        return place.stat()
    except FileNotFoundError:
        if place.is_symlink():
            raise OutputError("the output is a link to nothing", where=place, do=ELSEWHERE) from None
        return None
    except NotADirectoryError:
        raise OutputError("a part of the output's path is a file", where=place, do=ELSEWHERE) from None
    except OSError as error:
        raise OutputError("the output cannot be reached", where=place, got=error.strerror, do=ELSEWHERE) from None


def _kind(found: os.stat_result) -> str:
    names = {
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFDIR: "a folder",
    }
    return names.get(stat.S_IFMT(found.st_mode), "a file")


def _try_to_write(folder: Path, place: Path) -> None:
    """Make a file in `folder` and remove it again: permissions, read-only disks and quotas have many reasons."""
    if not folder.is_dir():
        raise OutputError("a part of the output's path is a file", where=folder, do=ELSEWHERE)
    try:
        with tempfile.TemporaryFile(prefix=".farss-", dir=folder):
            pass
    except OSError as error:
        reason = "the disk is read-only" if error.errno == errno.EROFS else error.strerror
        raise OutputError(
            "the output cannot be written", where=place, got=f"{folder}: {reason}", do=ELSEWHERE
        ) from None
