"""The disk that results go to: how much is free on it, and which errors mean that it is full."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from farss.errors import ResourceError, StorageError

FULL = {errno.ENOSPC, errno.EDQUOT}
FULL_WORDS = ("No space left on device", "os error 28", "Disk quota exceeded", "os error 122")
"""How libraries that hide the number of the system's error say that nothing more fits."""
WRITER_WORDS = ("PytorchStreamWriter failed", "unexpected pos", "iostream error")
"""What torch says of any failed write, and so of a full disk too."""
NEARLY_NOTHING = 1 << 20
"""With less than this free, a write that failed for no named reason failed for want of space."""
LEAST_BYTES = 256 << 10
"""What the smallest result takes: a page, its figures and samples."""

ELSEWHERE = "free some space, or choose another --out"
CACHE_FULL = "free some space, or name another disk for the cache in FARSS_CACHE"


def full_disk(error: BaseException, where: str | Path) -> StorageError | None:
    """What to say of an error that a full disk made, whatever library wrapped it; None for any other error.

    Args:
        error: as it was caught.
        where: what was being written, unless the error names the file.
    """
    chain = list(_chain(error))
    named = next((e.filename for e in chain if isinstance(e, OSError) and isinstance(e.filename, str)), None)
    place = Path(named) if named else Path(where)
    text = " ".join(map(str, chain))
    said = any(isinstance(e, OSError) and e.errno in FULL for e in chain) or any(word in text for word in FULL_WORDS)
    failed = any(word in text for word in WRITER_WORDS) and free_bytes(place) < NEARLY_NOTHING
    if not said and not failed:
        return None
    return StorageError(
        "the disk is full",
        where=place,
        got=f"{str(error).splitlines()[0] if str(error) else type(error).__name__}; {describe_disk(place)}",
        do="free some space, or choose another --out; the same command goes on from what is finished",
    )


def require_space(place: str | Path, needed: int, what: str, do: str = ELSEWHERE) -> None:
    """Refuse to begin what cannot fit.

    Args:
        place: a file or folder that is to be written, there or not.
        needed: the least number of bytes it takes.
        what: goes there, for the message.
        do: the next step for the user.

    Raises:
        ResourceError: naming the disk, what is free and what is needed.
    """
    if free_bytes(place) < needed:
        raise ResourceError(
            "there is too little space on the disk",
            where=place,
            expected=f"{needed:,} bytes for {what}",
            got=describe_disk(Path(place)),
            do=do,
        )


def free_bytes(place: str | Path) -> int:
    """Bytes that can still be written at `place`, there or not."""
    return shutil.disk_usage(standing(Path(place))).free


def describe_disk(place: Path) -> str:
    """The disk of `place` and what is free on it, in words."""
    usage = shutil.disk_usage(standing(place))
    return f"{usage.free:,} of {usage.total:,} bytes free on the disk of {_mount(place)}"


def standing(place: Path) -> Path:
    """The nearest part of a path that exists: itself, or the folder that it would be made in."""
    place = Path(os.path.realpath(place))
    while not os.path.lexists(place):
        place = place.parent
    return place


def _mount(place: Path) -> Path:
    place = standing(place)
    while not place.is_mount() and place != place.parent:
        place = place.parent
    return place


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
