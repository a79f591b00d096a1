"""A program's own folder, where no namespace bounds it: whether it holds too much, and its removal in bounded time."""

from __future__ import annotations

import os
import stat
import time

MOST_DEPTH = 32
"""Folders within folders; one that is deeper holds too much."""
BLOCK_BYTES = 512
"""Unit of `st_blocks`, whatever the file system."""
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class TooMuchError(Exception):
    """A folder holds more than it may."""


def holds_too_much(folder: str, files: int, size: int) -> bool:
    """Whether a folder holds more than so many files and folders, bytes on disk, or too deep a tree.

    Looks at no more than `files` entries, so that it takes a bounded time; what vanishes meanwhile is not counted.
    """
    left = [files, size]
    try:
        _count(os.open(folder, DIRECTORY), left, MOST_DEPTH)
    except TooMuchError:
        return True
    return False


def _count(handle: int, left: list[int], depth: int) -> None:
    if depth < 0:
        raise TooMuchError
    try:
        with os.scandir(handle) as entries:
            for entry in entries:
                _count_entry(handle, entry, left, depth)
    finally:
        os.close(handle)


def _count_entry(handle: int, entry: os.DirEntry[str], left: list[int], depth: int) -> None:
    try:
        status = entry.stat(follow_symlinks=False)
        left[0] -= 1
        left[1] -= status.st_blocks * BLOCK_BYTES
        if min(left) < 0:
            raise TooMuchError
        if stat.S_ISDIR(status.st_mode):
            _count(os.open(entry.name, DIRECTORY, dir_fd=handle), left, depth - 1)
    except (FileNotFoundError, NotADirectoryError):
        return
    except PermissionError as error:  # a folder that hides what is in it
        raise TooMuchError from error


def remove(folder: str, seconds: float) -> bool:
    """Remove a folder nobody uses any more, whatever it holds; whether that was done within so many seconds.

    Folders are moved up to the top before they are emptied, so that no depth is too great and few files are open.

    Raises:
        OSError: if the system refuses.
    """
    ends = time.monotonic() + seconds
    top = os.open(folder, DIRECTORY)
    moved = os.urandom(8).hex()
    number = 0
    try:
        while names := os.listdir(top):
            for name in names:
                if time.monotonic() >= ends:
                    return False
                number = _remove_entry(top, name, moved, number)
    finally:
        os.close(top)
    os.rmdir(folder)
    return True


def _remove_entry(top: int, name: str, moved: str, number: int) -> int:
    """Remove one entry of the top; folders in it are left there under new names, counted on from `number`."""
    if not _is_folder(top, name):
        os.unlink(name, dir_fd=top)
        return number
    os.chmod(name, 0o700, dir_fd=top)
    handle = os.open(name, DIRECTORY, dir_fd=top)
    try:
        for inner in os.listdir(handle):
            if _is_folder(handle, inner):
                os.chmod(inner, 0o700, dir_fd=handle)
                number += 1
                os.rename(inner, f"{moved}-{number}", src_dir_fd=handle, dst_dir_fd=top)
            else:
                os.unlink(inner, dir_fd=handle)
    finally:
        os.close(handle)
    os.rmdir(name, dir_fd=top)
    return number


def _is_folder(handle: int, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode)
