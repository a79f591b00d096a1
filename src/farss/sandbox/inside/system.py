"""System calls for which Python 3.11 has no function. Every failure is an OSError that names the call."""

from __future__ import annotations

import ctypes
import os
import platform

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
NEW_NAMESPACES = (
    CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET
)

CAPABILITY_VERSION = 0x20080522
CAPABILITY_SYS_ADMIN = 21

# (x86_64, aarch64); calls newer than 2019 have one number everywhere.
NUMBERS = {"pivot_root": (155, 41), "capset": (126, 91)}

_LIBC = ctypes.CDLL(None, use_errno=True)


def machine() -> int | None:
    """The column of this machine in a table of system call numbers; None if it is not in them."""
    return {"x86_64": 0, "aarch64": 1}.get(platform.machine())


def checked(name: str, result: int) -> int:
    """The result of a C call.

    Raises:
        OSError: if the result is -1, with the reason and the call's name.
    """
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def syscall(name: str, number: int, *arguments: object) -> int:
    """The result of system call `number`; arguments are ctypes objects, bytes, None or integers."""
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return checked(name, _LIBC.syscall(ctypes.c_long(number), *wide))


def known(name: str) -> int:
    """The number of a system call in `NUMBERS` on this machine.

    Raises:
        OSError: if the machine is not in the table.
    """
    column = machine()
    if column is None:
        raise OSError(f"{name}: no system call numbers for {platform.machine()}")
    return NUMBERS[name][column]


def unshare(flags: int) -> None:
    """Leave the namespaces named by `flags`."""
    checked("unshare", _LIBC.unshare(flags))


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """Mount a file system, or change how one is mounted."""
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind, options)]
    result = _LIBC.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3])
    checked(f"mount {target}", result)


def unmount(target: str, flags: int) -> None:
    """Take a mounted file system away."""
    checked(f"umount {target}", _LIBC.umount2(os.fsencode(target), flags))


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process."""
    zero = ctypes.c_ulong(0)
    checked(f"prctl {option}", _LIBC.prctl(option, ctypes.c_ulong(value), zero, zero, zero))


def drop_capabilities() -> None:
    """Give up every capability of this process."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    none = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, in two words each
    syscall("capset", known("capset"), header, none)


def may_administer() -> bool:
    """Whether this process has CAP_SYS_ADMIN."""
    with open("/proc/self/status", encoding="ascii") as status:
        effective = next(line.split()[1] for line in status if line.startswith("CapEff:"))
    return bool(int(effective, 16) >> CAPABILITY_SYS_ADMIN & 1)
