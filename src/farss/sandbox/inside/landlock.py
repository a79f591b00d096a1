"""Landlock: this process and its children may touch files only below named paths, and make no TCP connection."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Mapping

from . import system

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
VERSION_FLAG = 1
RULE_PATH_BENEATH = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
TRUNCATE, IOCTL_DEV = 1 << 14, 1 << 15
FOR_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
"""The rights that a rule about a single file may name."""

READ = EXECUTE | READ_FILE | READ_DIR
DEVICE = WRITE_FILE | READ_FILE
MAKE_DEVICES = 1 << 6 | 1 << 11

FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
"""How many of the rights (in bit order) the kernel knows, from which version on."""
NET_VERSION, SCOPE_VERSION = 4, 6
NET_BIND_CONNECT = 0b11
SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11


def version() -> int:
    """The kernel's version of Landlock; 0 if it has none or it is switched off."""
    try:
        return system.syscall("landlock_create_ruleset", CREATE_RULESET, None, 0, VERSION_FLAG)
    except OSError:
        return 0


def all_rights(abi: int) -> int:
    """Every right to files that version `abi` can take away."""
    return (1 << max(count for since, count in FILE_RIGHTS.items() if since <= abi)) - 1


def confine(abi: int, allowed: Mapping[str, int]) -> None:
    """Take away every right to files except those in `allowed`, and TCP and signals where version `abi` can.

    Args:
        abi: from `version`.
        allowed: path -> rights for it and everything below; every path must exist.

    Raises:
        OSError: if the kernel refuses.
    """
    ruleset = _ruleset(abi)
    try:
        for path, rights in allowed.items():
            _allow(ruleset, path, rights & all_rights(abi))
        system.syscall("landlock_restrict_self", RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _ruleset(abi: int) -> int:
    fields = [all_rights(abi)]
    fields += [NET_BIND_CONNECT] if abi >= NET_VERSION else []
    fields += [SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS] if abi >= SCOPE_VERSION else []
    packed = struct.pack(f"={len(fields)}Q", *fields)
    return system.syscall("landlock_create_ruleset", CREATE_RULESET, packed, len(packed), 0)


def _allow(ruleset: int, path: str, rights: int) -> None:
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(handle).st_mode):
            rights &= FOR_FILES
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, handle))
        system.syscall(f"landlock_add_rule {path}", ADD_RULE, ruleset, RULE_PATH_BENEATH, rule, 0)
    finally:
        os.close(handle)
