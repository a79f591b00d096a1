"""What the sandbox's tests share: the arrangements to test, and a search for processes that got away."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from farss.errors import SandboxError
from farss.sandbox import Protections, probe, require

WAYS = ("namespaces", "open")
LINGER_SECONDS = 5.0


def protections_of(way: str) -> Protections:
    """The protections with namespaces, or without them; the test is skipped where there are none such."""
    if way == "namespaces":
        found = probe()
        if found.arrangement.namespaces == "none":
            pytest.skip(f"no namespaces here: {found.missing}")
    else:
        found = probe(readable_python(), namespaces=False)
    try:
        require(found)
    except SandboxError as error:
        pytest.skip(f"no sandbox here: {error}")
    return found


def readable_python() -> str:
    """An interpreter whose library another user can read: the system's, where it is new enough."""
    system = shutil.which("python3", path="/usr/bin")
    if system is None:
        return sys.executable
    script = "import sys; print(sys.version_info >= (3, 11))"
    told = subprocess.run([system, "-c", script], capture_output=True, text=True, check=True)
    return system if told.stdout.strip() == "True" else sys.executable


class Mark:
    """A process name that the program gives itself, and so all that it starts."""

    def __init__(self) -> None:
        self.name = uuid.uuid4().hex[:15]  # as long as the kernel keeps
        self.code = f"import ctypes; ctypes.CDLL(None).prctl(15, {self.name.encode()!r}, 0, 0, 0)\n"

    def alive(self) -> list[int]:
        """The processes with the mark that have not ended."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                name, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended meanwhile
            if name == self.name and rest.split()[0] not in "ZX":
                found.append(int(entry.name))
        return found

    def left(self) -> list[int]:
        """The processes with the mark that are still there after a moment."""
        ends = time.monotonic() + LINGER_SECONDS
        while (found := self.alive()) and time.monotonic() < ends:
            time.sleep(0.01)
        return found


def state() -> tuple:
    """What a program must not change about this process."""
    import resource

    limits = [resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")]
    return (
        os.getcwd(),
        dict(os.environ),
        limits,
        os.getpriority(os.PRIO_PROCESS, 0),
        sorted(os.listdir("/proc/self/fd")),
    )


def back_to(before: tuple) -> bool:
    """Whether this process is as it was; what another thread of the tests has open for a moment is waited for."""
    ends = time.monotonic() + LINGER_SECONDS
    while state() != before and time.monotonic() < ends:
        time.sleep(0.01)
    return state() == before
