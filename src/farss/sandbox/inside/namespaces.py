"""Namespaces: a file system of read-only system folders and one empty writable folder, no network, own process ids."""

from __future__ import annotations

import ctypes
import os
import struct
import sys

from . import system

MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 0x1000, 0x4000, 0x40000
MNT_DETACH = 2
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE = 442, -100, 0x8000
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV = 1, 2, 4

APART = system.CLONE_NEWNS | system.CLONE_NEWPID | system.CLONE_NEWNET | system.CLONE_NEWIPC | system.CLONE_NEWUTS

FOLDER = "/box"
"""The one writable folder, as the program sees it."""
ROOT_BYTES = 1 << 20
"""Memory for the new root's empty folders."""
SYSTEM_FOLDERS = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/nix/store", "/etc/ld.so.cache", "/etc/localtime")
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")


def readable() -> list[str]:
    """The host's paths that a program may read: the system's libraries and programs, and this Python."""
    found: list[str] = []
    for path in (*SYSTEM_FOLDERS, sys.base_prefix, sys.base_exec_prefix):
        inside = any(path == other or path.startswith(f"{other}/") for other in found)
        if os.path.exists(path) and not inside:
            found.append(path)
    return found


def enter(kind: str) -> None:
    """Leave the host's namespaces; the process ids take effect for children.

    Args:
        kind: "root" with the administrator's rights, "user" through a user namespace of one's own.
    """
    if kind == "user":
        proc = open_proc()
        user, group = os.geteuid(), os.getegid()
        system.unshare(system.CLONE_NEWUSER)
        own_identity(proc, user, group)
        os.close(proc)
    system.unshare(APART)


def open_proc() -> int:
    """A handle on the host's /proc, to be closed before any foreign code runs."""
    return os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def own_identity(proc: int, user: int, group: int) -> None:
    """Map the one user and group of this process, new in a user namespace, to themselves."""
    system.prctl(system.PR_SET_DUMPABLE, 1)  # a change of user made /proc/self the administrator's
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        handle = os.open(f"self/{name}", os.O_WRONLY, dir_fd=proc)
        try:
            os.write(handle, text.encode("ascii"))
        finally:
            os.close(handle)


def build_root(place: str, folder_bytes: int, folder_files: int) -> None:
    """Make a small root file system at `place` and move into it; the host's files are then out of reach.

    Args:
        place: an empty folder of the host.
        folder_bytes: what all files in `FOLDER` may hold together.
        folder_files: how many there may be.
    """
    system.mount(None, "/", None, MS_REC | MS_PRIVATE)
    system.mount("tmpfs", place, "tmpfs", MS_NOSUID | MS_NODEV, f"size={ROOT_BYTES},mode=0755")
    for path in readable():
        _bring(path, place)
    for path in DEVICES:
        _bind(path, place, ATTR_NOSUID)
    folder = place + FOLDER
    os.makedirs(folder, exist_ok=True)
    options = f"size={folder_bytes},nr_inodes={folder_files},mode=1777"
    system.mount("tmpfs", folder, "tmpfs", MS_NOSUID | MS_NODEV, options)
    _restrict(place, ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV, 0)
    os.chdir(place)
    system.syscall("pivot_root", system.known("pivot_root"), b".", b".")
    system.unmount(".", MNT_DETACH)
    os.chdir("/")


def _bring(path: str, place: str) -> None:
    if os.path.islink(path):
        os.makedirs(os.path.dirname(place + path), exist_ok=True)
        os.symlink(os.readlink(path), place + path)
    else:
        _bind(path, place, ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV)


def _bind(path: str, place: str, attributes: int) -> None:
    target = place + path
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    system.mount(path, target, None, MS_BIND | MS_REC)
    _restrict(target, attributes, AT_RECURSIVE)


def _restrict(target: str, attributes: int, flags: int) -> None:
    wanted = ctypes.create_string_buffer(struct.pack("=4Q", attributes, 0, 0, 0), 32)
    name = f"mount_setattr {target}"
    system.syscall(name, MOUNT_SETATTR, AT_FDCWD, os.fsencode(target), flags, wanted, 32)
