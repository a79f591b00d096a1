"""One program in one sandbox process: started, watched, ended with everything it started."""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from farss.errors import SandboxError
from farss.sandbox.inside import folder
from farss.sandbox.limits import Limits, Outcome, Status

HERE = Path(__file__).parent
FLAGS = ("-s", "-S", "-P")
"""No packages but the standard library, and nothing imported from the folder it is started in."""
BOOT = "import sys; sys.path.insert(0, sys.argv.pop(1)); from inside.starter import main; main()"
ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1"}
"""All that the sandbox's interpreter inherits: the order of sets does not change from run to run."""
START_SECONDS = 60.0
"""A sandbox that is not set up by then has failed; generous, since the machine may be busy."""
KILL_SECONDS = 10.0
"""Killed processes are gone by then, or they have escaped."""
CLEAN_SECONDS = 3.0
"""Most that a caller waits for the removal of a program's files; what a slow disk needs more is done beside."""
SHARED_MEMORY = "/dev/shm"
CHUNK_BYTES = 65536
STDERR_CHARACTERS = 2000


@dataclass(frozen=True)
class Arrangement:
    """How a sandbox is built; each part is applied or the program is not run.

    Attributes:
        python: the interpreter that runs the programs.
        namespaces: "root" made with the administrator's rights, "user" inside a user namespace, "none".
        landlock: version of Landlock, 0 for without.
        seccomp: whether system calls are filtered.
        user: number of the unprivileged user that programs run as; None for the caller.
    """

    python: str
    namespaces: Literal["root", "user", "none"] = "none"
    landlock: int = 0
    seccomp: bool = False
    user: int | None = None


def run_in(arrangement: Arrangement, source: str, limits: Limits) -> Outcome:
    """Run one program, whatever the arrangement protects from; `run_program` checks that first.

    Raises:
        SandboxError: if the sandbox could not be set up, or something in it survived its end.
    """
    return play(arrangement, {"role": "program", "source": source}, limits)


def play(arrangement: Arrangement, part: dict[str, Any], limits: Limits, lines: tuple[int, ...] = ()) -> Outcome:
    """Run what one process of a sandbox does: a program, or one of two sides that talk over `lines`.

    Args:
        arrangement: how the sandbox is built.
        part: `role` and what that role needs, see `starter`.
        limits: what it may use.
        lines: file descriptors for it, closed here.

    Raises:
        SandboxError: as `run_in`.
    """
    with _Folder(arrangement) as own:
        plan = {
            **part,
            "lines": list(lines),
            "limits": asdict(limits),
            "folder": own.path,
            "parent": os.getpid(),
            "namespaces": arrangement.namespaces,
            "landlock": arrangement.landlock,
            "seccomp": arrangement.seccomp,
            "user": arrangement.user,
        }
        with _launched(arrangement.python, plan, lines) as process:
            watch = _Watch(process, limits)
            watch.follow()
        outcome = watch.outcome()
    seconds = outcome.seconds + own.seconds
    late = outcome.passed and seconds > limits.wall_seconds
    return replace(outcome, seconds=seconds, status="timeout" if late else outcome.status)


def look(python: str) -> dict[str, Any]:
    """What the kernel offers: `landlock` (version), `seccomp` (None, or why not), `administrator`.

    Raises:
        SandboxError: if the interpreter does not start.
    """
    with _launched(python, {"look": True}) as process:
        watch = _Watch(process, Limits())
        watch.follow()
    if not watch.answers:
        raise SandboxError("the sandbox's interpreter does not start", where=python, got=watch.stderr())
    return watch.answers


class _Folder:
    """An empty folder, the program's own where there are no namespaces (with them it only marks a place).

    Attributes:
        path: of the folder.
        seconds: its removal took, known afterwards.
    """

    def __init__(self, arrangement: Arrangement) -> None:
        open_air = arrangement.namespaces == "none"
        self.path = os.path.realpath(
            tempfile.mkdtemp(prefix="farss-sandbox-", dir=_quick_place() if open_air else None)
        )
        self.seconds = 0.0
        if arrangement.user is not None and open_air:
            os.chown(self.path, arrangement.user, arrangement.user)

    def __enter__(self) -> _Folder:
        return self

    def __exit__(self, *_: object) -> None:
        began = time.monotonic()
        try:
            gone = folder.remove(self.path, CLEAN_SECONDS)
        except OSError as error:
            raise SandboxError("a program's files cannot be removed", where=self.path, got=str(error)) from error
        self.seconds = time.monotonic() - began
        if not gone:  # a slow disk; no process is left that could add to it
            threading.Thread(target=folder.remove, args=(self.path, math.inf)).start()


def _quick_place() -> str | None:
    """Where files are removed fast: the memory file system that all Linux programs share; None where it is not.

    Directories on a disk can take milliseconds each. The user's own choice of a temporary folder goes first.
    """
    wanted = "TMPDIR" not in os.environ and os.access(SHARED_MEMORY, os.W_OK | os.X_OK)
    return SHARED_MEMORY if wanted else None


@dataclass
class _Process:
    """A started sandbox: the starter's process and our end of its channel."""

    starter: subprocess.Popen[bytes]
    channel: int


@contextlib.contextmanager
def _launched(python: str, plan: dict[str, Any], lines: tuple[int, ...] = ()) -> Iterator[_Process]:
    reader, writer = os.pipe()
    try:
        starter = subprocess.Popen(
            [python, *FLAGS, "-c", BOOT, str(HERE), str(writer)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
            cwd="/",
            pass_fds=(writer, *lines),
            start_new_session=True,
        )
    except OSError as error:
        os.close(reader)
        raise SandboxError("the sandbox's interpreter does not start", where=python, got=str(error)) from error
    finally:
        for end in (writer, *lines):
            os.close(end)
    try:
        with starter:
            assert starter.stdin is not None
            with contextlib.suppress(BrokenPipeError), starter.stdin as stdin:  # it ended; `_Watch` says why
                stdin.write(json.dumps(plan).encode("ascii"))
            yield _Process(starter, reader)
    finally:
        os.close(reader)


@dataclass
class _Watch:
    """Reads what a sandbox writes until it ends or has to be ended."""

    process: _Process
    limits: Limits
    answers: dict[str, Any] = field(default_factory=dict)
    _texts: dict[str, bytearray] = field(default_factory=lambda: {"stdout": bytearray(), "stderr": bytearray()})
    _written: int = 0
    _line: bytes = b""
    _began: float | None = None
    _seconds: float = 0.0
    _stopped: Status | None = None

    def follow(self) -> None:
        """Watch to the end; afterwards no process of the sandbox is left."""
        ends = time.monotonic() + START_SECONDS
        starter = self.process.starter
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.channel, selectors.EVENT_READ, "channel")
            for name, pipe in (("stdout", starter.stdout), ("stderr", starter.stderr)):
                assert pipe is not None
                selector.register(pipe.fileno(), selectors.EVENT_READ, name)
            try:
                self._read(selector, ends, until="channel")
            finally:
                self._end()
            self._read(selector, time.monotonic() + KILL_SECONDS, until=None)
            if selector.get_map():
                raise SandboxError(
                    "a process in the sandbox outlived its end", do="look for it, and report how it got away"
                )

    def outcome(self) -> Outcome:
        """How it ended.

        Raises:
            SandboxError: if the program was never started.
        """
        if "refused" in self.answers or self._began is None:
            got = self.answers.get("refused") or self.stderr() or "no answer"
            raise SandboxError("the sandbox could not be set up, so the program was not run", got=got)
        code = None if self._stopped else self.answers.get("exit_code")
        stdout = bytes(self._texts["stdout"][: self.limits.output_bytes]).decode("utf-8", "replace")
        return Outcome(self._status(), code, stdout, self.stderr(), self._seconds)

    def stderr(self) -> str:
        """The end of standard error."""
        return bytes(self._texts["stderr"]).decode("utf-8", "replace")[-STDERR_CHARACTERS:]

    def _status(self) -> Status:
        if self._stopped is not None:
            return self._stopped
        code = self.answers.get("exit_code")
        if code is None:
            return "killed"  # with its keeper, from outside
        if self.answers["crowded"]:
            return "files"
        if code == 0 and self.answers["completed"]:
            return "passed"
        if self.answers["out_of_memory"]:
            return "memory"
        used_up = self.answers["cpu_seconds"] >= self.limits.cpu_seconds
        if code == -signal.SIGXCPU or (code == -signal.SIGKILL and used_up):
            return "timeout"
        return "killed" if code < 0 else "failed"

    def _read(self, selector: selectors.BaseSelector, ends: float, until: str | None) -> None:
        """Take what comes until the stream `until` (or every stream) is closed, `ends`, or a limit is reached."""
        while selector.get_map():
            if self._began is not None and until is not None:
                ends = self._began + self.limits.wall_seconds
            ready = selector.select(max(ends - time.monotonic(), 0.0))
            for key, _ in ready:
                chunk = os.read(key.fd, CHUNK_BYTES)
                if not chunk:
                    selector.unregister(key.fileobj)
                    if key.data == until:
                        return
                self._take(key.data, chunk)
            if self._stopped is not None and until is not None:
                return
            if time.monotonic() >= ends:
                self._stopped = self._stopped or ("timeout" if until is not None else None)
                return

    def _take(self, name: str, chunk: bytes) -> None:
        if name == "channel":
            *lines, self._line = (self._line + chunk).split(b"\n")
            for line in lines:
                self._hear(json.loads(line))
            return
        self._written += len(chunk)
        text = self._texts[name]
        text += chunk
        if name == "stderr":
            del text[: -4 * STDERR_CHARACTERS]  # a character has at most four bytes
        if self._written > self.limits.output_bytes:
            self._stopped = self._stopped or "output"

    def _hear(self, answer: dict[str, Any]) -> None:
        self.answers.update(answer)
        if "started" in answer:
            self._began = time.monotonic()
        self._seconds = answer.get("seconds", self._seconds)

    def _end(self) -> None:
        """End the starter, which takes its sandbox with it, and then whatever is left in its group and the program's.

        The starter is not reaped before the groups are signalled, so that their numbers cannot belong to anyone else.
        """
        starter = self.process.starter
        if self._began is not None and "exit_code" not in self.answers:
            self._seconds = time.monotonic() - self._began
        if not _ends_itself(starter, 0.0 if self._stopped else KILL_SECONDS):
            starter.terminate()
            _ends_itself(starter, KILL_SECONDS)
        _kill_group(starter.pid)
        starter.wait()
        if starter.returncode != 0 and self.answers.get("group"):
            _kill_group(self.answers["group"])  # the program killed its own keeper


def _ends_itself(starter: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether the process ends within some seconds; it is left unreaped."""
    ends = time.monotonic() + seconds
    while os.waitid(os.P_PID, starter.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() >= ends:
            return False
        time.sleep(0.001)
    return True


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
