"""What this system protects from: found out by building a sandbox and letting a program in it try."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from farss.errors import SandboxError
from farss.sandbox.limits import MEBIBYTE, Limits
from farss.sandbox.process import Arrangement, look, run_in

Guarantee = Literal["network", "writes", "reads", "environment", "signals", "processes", "memory", "killing", "names"]

GUARANTEES: tuple[Guarantee, ...] = get_args(Guarantee)
MINIMUM: tuple[Guarantee, ...] = tuple(name for name in GUARANTEES if name != "names")
"""What `require` asks for unless told otherwise: all but that names are hidden, which takes namespaces."""

MEANING: Mapping[str, str] = {
    "network": "no connection to any host, this one included",
    "writes": "no file changed outside its own folder",
    "reads": "no file read besides the system's libraries and this Python",
    "environment": "nothing of the caller's environment seen",
    "signals": "no process outside signalled or changed, by the program or by the kernel for it",
    "processes": "no more processes than its limit",
    "memory": "no more memory than its limit",
    "killing": "whatever it started ends with it",
    "names": "not told whether a file outside is there, nor its size and times",
}

OLDEST_LANDLOCK = 3
"""The first version that guards truncation; before it, Landlock does not protect what files hold."""
UNPRIVILEGED_USER = 65534
"""`nobody`: whom programs run as when the caller is the administrator, whom no limit on processes binds."""
TRIAL = Path(__file__).with_name("trial.py")
TRIAL_LIMITS = Limits(cpu_seconds=5, wall_seconds=20.0, memory_bytes=256 * MEBIBYTE, processes=4, file_bytes=MEBIBYTE)


@dataclass(frozen=True)
class Protections:
    """The protections that are active.

    Attributes:
        arrangement: how a sandbox is built here.
        holds: what a program in such a sandbox was seen to be kept from.
        missing: mechanism or guarantee -> why it is not there.
    """

    arrangement: Arrangement
    holds: frozenset[str] = frozenset()
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """The parts of the operating system in use, by name; none where no sandbox can be made."""
        if "sandbox" in self.missing:
            return ()
        how = self.arrangement
        found = ["resource limits", "process group", "empty environment", "temporary folder", "no new privileges"]
        found += [f"user {how.user}"] if how.user is not None else []
        if how.namespaces != "none":
            found += [f"{kind} namespace" for kind in ("user", "mount", "pid", "network", "ipc")]
        found += [f"landlock {how.landlock}"] if how.landlock else []
        found += ["seccomp"] if how.seccomp else []
        return tuple(found)

    def __str__(self) -> str:
        lacking = [name for name in GUARANTEES if name not in self.holds]
        lines = [f"sandbox: {', '.join(self.mechanisms) or 'none'}"]
        lines += [f"  keeps from {name}: {MEANING[name]}" for name in GUARANTEES if name in self.holds]
        lines += [f"  NOT ENFORCED, {name}: {MEANING[name]}" for name in lacking]
        return "\n".join(lines + [f"  without {name}: {reason}" for name, reason in self.missing.items()])


@functools.cache
def probe(python: str = sys.executable, *, namespaces: bool = True) -> Protections:
    """The protections of the best sandbox that this system allows, tried out; takes about a second, once.

    Args:
        python: the interpreter for the programs, 3.11 or later; only its standard library is there for them.
        namespaces: False: do without, as on a system that forbids them.

    Raises:
        SandboxError: if the interpreter does not start.
    """
    if sys.platform != "linux":
        return Protections(Arrangement(python), missing={"sandbox": f"needs Linux, this is {sys.platform}"})
    found = look(python)
    missing: dict[str, str] = {}
    landlock = found["landlock"] if found["landlock"] >= OLDEST_LANDLOCK else 0
    if not landlock:
        missing["landlock"] = f"version {found['landlock']}, {OLDEST_LANDLOCK} is needed"
    if found["seccomp"] is not None:
        missing["seccomp"] = found["seccomp"]
    best: Protections | None = None
    for kind, user in _ways(found["administrator"], namespaces):
        try:
            tried = try_out(Arrangement(python, kind, landlock, found["seccomp"] is None, user), missing)
        except SandboxError as error:
            missing[f"{kind} namespaces" if kind != "none" else "confinement"] = str(error.got or error.what)
            continue
        if best is None or len(tried.holds) > len(best.holds):
            best = tried
        if set(MINIMUM) <= best.holds:
            break
    return best or Protections(Arrangement(python), missing={**missing, "sandbox": "; ".join(missing.values())})


def require(protections: Protections, minimum: tuple[Guarantee, ...] = MINIMUM) -> None:
    """Refuse unless everything in `minimum` holds.

    Raises:
        SandboxError: naming what does not hold, and why.
    """
    lacking = [name for name in minimum if name not in protections.holds]
    if "sandbox" in protections.missing:
        raise SandboxError("no sandbox can be made on this system", got=protections.missing["sandbox"])
    if lacking:
        raise SandboxError(
            "this system cannot keep a model's code in its place, so it is not run",
            expected="; ".join(f"{name}: {MEANING[name]}" for name in lacking),
            got="; ".join(f"no {name} ({reason})" for name, reason in protections.missing.items()) or None,
            do="run on a system that allows user namespaces or Landlock, or ask for a smaller `minimum`",
        )


def _ways(administrator: bool, namespaces: bool) -> Iterator[tuple[Literal["root", "user", "none"], int | None]]:
    """The ways to build a sandbox, the best first, and the user that programs run as."""
    user = UNPRIVILEGED_USER if os.geteuid() == 0 else None
    if namespaces and administrator:
        yield "root", user
    elif namespaces:
        yield "user", None
    yield "none", user


@dataclass
class _Canary:
    """A process of the caller's user that the trial may kill if it can.

    Attributes:
        pid: its number.
        killed: whether it was, known at the end.
    """

    pid: int
    killed: bool = False


@contextlib.contextmanager
def _canary(python: str) -> Iterator[_Canary]:
    process = subprocess.Popen(
        [python, "-I", "-S", "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, cwd="/", env={}
    )
    canary = _Canary(process.pid)
    try:
        yield canary
    finally:
        canary.killed = process.poll() is not None
        process.kill()
        with process:
            pass


@contextlib.contextmanager
def _abstract_sockets() -> Iterator[str]:
    """A stream and a datagram socket of the caller without a place in the file system; the first one's address."""
    name = f"\0farss-trial-{os.getpid()}-{os.urandom(4).hex()}"
    with socket.socket(socket.AF_UNIX) as stream, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        stream.bind(name)
        stream.listen()
        datagrams.bind(f"{name}-d")
        yield name


def try_out(arrangement: Arrangement, missing: Mapping[str, str]) -> Protections:
    """The protections of one arrangement, as a program in it finds them (`trial.py`).

    Args:
        arrangement: how the sandbox is built.
        missing: reasons known before, kept in the result.

    Raises:
        SandboxError: if no sandbox can be built this way.
    """
    with (
        tempfile.TemporaryDirectory(prefix="farss-trial-") as folder,
        socket.create_server(("127.0.0.1", 0)) as server,
        _abstract_sockets() as abstract,
        _canary(arrangement.python) as canary,
    ):
        os.chmod(folder, 0o777)  # so that only the sandbox is in the way
        secret, mark = Path(folder, "secret"), Path(folder, "mark")
        secret.write_text("secret", encoding="ascii")
        mark.write_text("untouched", encoding="ascii")
        os.chmod(secret, 0o644)
        os.chmod(mark, 0o666)
        targets = {
            "port": server.getsockname()[1],
            "secret": str(secret),
            "mark": str(mark),
            "caller": os.getpid(),
            "canary": canary.pid,
            "abstract": abstract,
            "limits": {"processes": TRIAL_LIMITS.processes, "memory_bytes": TRIAL_LIMITS.memory_bytes},
            "known": sorted(os.environ),
        }
        source = TRIAL.read_text(encoding="utf-8") + f"\nmain({json.dumps(targets)!r})\n"
        outcome = run_in(arrangement, source, TRIAL_LIMITS)
        if not outcome.passed:
            told = (outcome.stderr.strip() or outcome.status).splitlines()[-1]
            reader = f"user {arrangement.user}" if arrangement.user is not None else "this user"
            raise SandboxError(
                "a program did not run in the sandbox",
                got=f"{told}; {reader} must be able to read the standard library of {arrangement.python}",
            )
    kept: dict[str, str | None] = json.loads(outcome.stdout)
    if canary.killed:
        kept["signals"] = kept["signals"] or "a process outside was killed"
    escaped = {name: how for name, how in kept.items() if how is not None}
    holds = frozenset(name for name in GUARANTEES if name in kept and kept[name] is None)
    return Protections(arrangement, holds, {**missing, **escaped})
