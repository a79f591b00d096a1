"""The last steps before a program runs: another user, limits, no rights, no way back. All of them, or an OSError."""

from __future__ import annotations

import os
import resource
import signal
from typing import Any

from . import landlock, namespaces, seccomp, system

OPEN_FILES = 64
NO_CORE = 1
"""Less than any core takes; with 0 the kernel would still start the host's program that collects cores."""
SECONDS_FROM_SIGNAL_TO_KILL = 1
"""A program that ignores the signal at its CPU limit is killed this much later."""


def confine(plan: dict[str, Any], proc: int | None) -> None:
    """Give up everything the plan says, in the order in which it can still be given up.

    Args:
        plan: see `starter`.
        proc: the host's /proc, needed and closed here where there are namespaces.

    Raises:
        OSError: if a single step fails; the program must not run then.
    """
    apart = plan["namespaces"] != "none"
    if apart:
        os.setsid()
    else:
        os.setpgid(0, 0)
    if plan["user"] is not None:
        _become(plan["user"])
    if proc is not None:
        # One more user namespace, of this program alone, in which its processes are counted from one.
        user, group = os.geteuid(), os.getegid()
        system.unshare(system.CLONE_NEWUSER)
        namespaces.own_identity(proc, user, group)
        os.close(proc)
    _set_limits(plan["limits"])
    os.chdir(plan["folder"])
    os.umask(0o077)
    _lock(plan, apart)


def _become(user: int) -> None:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def _set_limits(limits: dict[str, int]) -> None:
    seconds = limits["cpu_seconds"]
    wanted = {
        resource.RLIMIT_AS: (limits["memory_bytes"],) * 2,
        resource.RLIMIT_CPU: (seconds, seconds + SECONDS_FROM_SIGNAL_TO_KILL),
        resource.RLIMIT_FSIZE: (limits["file_bytes"],) * 2,
        resource.RLIMIT_NPROC: (limits["processes"],) * 2,
        resource.RLIMIT_NOFILE: (OPEN_FILES,) * 2,
        resource.RLIMIT_CORE: (NO_CORE, NO_CORE),
    }
    for name, (soft, hard) in wanted.items():
        _, most = resource.getrlimit(name)
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        resource.setrlimit(name, (soft, hard))


def _lock(plan: dict[str, Any], apart: bool) -> None:
    system.prctl(system.PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of user, which clears it
    system.drop_capabilities()
    system.prctl(system.PR_SET_DUMPABLE, 0)  # no other process of the same user may look into it either
    system.prctl(system.PR_SET_NO_NEW_PRIVS, 1)
    if plan["landlock"]:
        landlock.confine(plan["landlock"], _paths(plan, apart))
    if plan["seccomp"]:
        seccomp.install(in_the_open=not apart)


def _paths(plan: dict[str, Any], apart: bool) -> dict[str, int]:
    every = landlock.all_rights(plan["landlock"]) & ~landlock.MAKE_DEVICES
    readable = ["/"] if apart else namespaces.readable()
    devices = [path for path in namespaces.DEVICES if os.path.exists(path)]
    return {
        **dict.fromkeys(readable, landlock.READ),
        **dict.fromkeys(devices, landlock.DEVICE),
        plan["folder"]: every,
    }
