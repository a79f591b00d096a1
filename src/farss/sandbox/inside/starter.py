"""Run one program in a sandbox of its own. Started by `process.py` with the plan on standard input.

The plan: `role` ("program"; or "solution" and "examiner", which talk over `lines`, two file descriptors), `source` (of
an examiner `preamble`, `names` and `tests`), `limits` (the fields of `Limits`), `folder` (an empty folder of the host),
`namespaces` ("root", "user" or "none"), `landlock` (version, 0 for none), `seccomp`, `user` (to become, or None),
`parent` (process id).
`{"look": true}` instead asks what there is. Answers are JSON lines on the channel, a file descriptor named as argument.

Up to three processes: the starter, outside; with namespaces the keeper, process 1 of the new process ids, with whose
end the kernel kills whatever the program started; and the program. Without namespaces the starter is the keeper.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
import traceback
import types
from collections.abc import Callable
from typing import Any, NoReturn

from . import confine, examiner, folder, landlock, namespaces, seccomp, solution, system

READY, GO, MEMORY = b"ready\n", b"g", b"memory\n"
VERDICT_BYTES = 4096
SECONDS_BETWEEN_LOOKS = 0.05
PATH = "/usr/bin:/bin"
LEAST_LIKED = "1000"  # by the kernel when memory runs out, so that the sandbox dies rather than its caller

WRITE, EXIT = os.write, os._exit
"""Kept here because a program may replace its own `os.write` and `os._exit`."""


def main() -> None:
    """Read the plan, run it, answer."""
    channel = int(sys.argv[1])
    plan = json.loads(sys.stdin.buffer.read())

    def tell(**answer: Any) -> None:
        os.write(channel, json.dumps(answer).encode("ascii") + b"\n")

    if plan.get("look"):
        tell(**_look())
        return
    try:
        _start(plan, channel, tell)
    except OSError as error:
        tell(refused=str(error))


def _look() -> dict[str, Any]:
    """What the kernel has, each found by asking for it."""
    return {"landlock": landlock.version(), "seccomp": _try_seccomp(), "administrator": system.may_administer()}


def _try_seccomp() -> str | None:
    """Why no filter can be installed; None if one can."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            system.prctl(system.PR_SET_NO_NEW_PRIVS, 1)
            seccomp.install(in_the_open=True)
        except OSError as error:
            os.write(writer, str(error).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as answer:
        return answer.read().decode() or None


def _start(plan: dict[str, Any], channel: int, tell: Callable[..., None]) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.close(nothing)
    system.prctl(system.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != plan["parent"]:
        raise OSError("the caller has ended")
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
        score.write(LEAST_LIKED)
    if plan["namespaces"] == "none":
        _keep(plan, channel, tell, proc=None)
        return
    proc = namespaces.open_proc()
    namespaces.enter(plan["namespaces"])
    keeper = os.fork()
    if keeper == 0:
        _keep_apart(plan, channel, tell, proc)
    os.close(proc)
    _hang_up(plan)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(keeper, signal.SIGKILL))
    os.waitpid(keeper, 0)  # returns when every process of the namespace is gone


def _keep_apart(plan: dict[str, Any], channel: int, tell: Callable[..., None], proc: int) -> NoReturn:
    try:
        system.prctl(system.PR_SET_PDEATHSIG, signal.SIGKILL)
        limits = plan["limits"]
        namespaces.build_root(plan["folder"], limits["file_bytes"], limits["files"])
        _keep({**plan, "folder": namespaces.FOLDER}, channel, tell, proc)
    except OSError as error:
        tell(refused=str(error))
    finally:
        os._exit(0)


def _keep(plan: dict[str, Any], channel: int, tell: Callable[..., None], proc: int | None) -> None:
    """Start the program, wait for it, say how it ended, and end what it left behind."""
    if proc is None:
        system.prctl(system.PR_SET_CHILD_SUBREAPER, 1)  # whoever loses its parent becomes a child of this process
    reader, writer = os.pipe()
    waiting, go = os.pipe()
    key = os.urandom(16).hex().encode("ascii") + b"\n"
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # `_wait_for` takes it up
    program = os.fork()
    if program == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        for other in (channel, reader, go):
            os.close(other)
        for line in plan["lines"]:
            os.set_inheritable(line, False)
        _become_program(plan, waiting, writer, key, proc)
    os.close(writer)
    os.close(waiting)
    _hang_up(plan)
    if proc is None:
        signal.signal(signal.SIGTERM, lambda *_: os.kill(program, signal.SIGKILL))
    first = os.read(reader, VERDICT_BYTES)
    if first == READY:
        tell(started=True, group=program if proc is None else None)
    else:
        tell(refused=first.decode() or "the sandbox ended while it was set up")
    began = time.monotonic()
    if first == READY:
        os.write(go, GO)  # the caller has been told before the program's first output
    os.close(go)
    crowded = False

    def full() -> bool:
        return folder.holds_too_much(plan["folder"], plan["limits"]["files"], plan["limits"]["file_bytes"])

    def look() -> None:
        nonlocal crowded
        if not crowded and full():
            crowded = True
            os.kill(program, signal.SIGKILL)

    status, used = _wait_for(program, look if proc is None else None)
    crowded = crowded or (proc is None and full())  # a quick program is done between two looks
    seconds = time.monotonic() - began
    os.set_blocking(reader, False)  # what the program left running may hold the other end
    last = _read_available(reader)
    tell(
        exit_code=os.waitstatus_to_exitcode(status),
        seconds=seconds,
        cpu_seconds=used,
        completed=last == key,
        out_of_memory=last == MEMORY,
        crowded=crowded,
    )
    if proc is None:
        _end_group(program)
        _end_descendants()


def _hang_up(plan: dict[str, Any]) -> None:
    """Leave the lines to the program, so that the other side sees them closed when it ends."""
    for line in plan["lines"]:
        os.close(line)


def _wait_for(program: int, look: Callable[[], None] | None) -> tuple[int, float]:
    """The program's wait status and CPU seconds; orphans that come by are reaped.

    Args:
        program: its process.
        look: called every now and then meanwhile; None for nothing to look at.
    """
    while True:
        child, status, usage = os.wait4(-1, os.WNOHANG if look else 0)
        if child == program:
            return status, usage.ru_utime + usage.ru_stime
        if child == 0 and look:
            signal.sigtimedwait({signal.SIGCHLD}, SECONDS_BETWEEN_LOOKS)
            look()


def _read_available(reader: int) -> bytes:
    try:
        return os.read(reader, VERDICT_BYTES)
    except BlockingIOError:
        return b""


def _end_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return  # nobody is left in it


def _end_descendants() -> None:
    """Kill child after child, whose own children then become this process's, until there are none."""
    while True:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as children:
            for child in map(int, children.read().split()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _become_program(plan: dict[str, Any], waiting: int, verdict: int, key: bytes, proc: int | None) -> NoReturn:
    try:
        confine.confine(plan, proc)
    except (OSError, ValueError) as error:
        os.write(verdict, str(error).encode())
        os._exit(1)
    os.environ.clear()
    os.environ.update(PATH=PATH, HOME=plan["folder"], TMPDIR=plan["folder"], LANG="C.UTF-8")
    sys.path.pop(0)  # the folder of this package
    sys.argv[:] = [""]
    sys.dont_write_bytecode = True
    for own in [name for name in sys.modules if name.partition(".")[0] == __name__.partition(".")[0]]:
        del sys.modules[own]
    os.write(verdict, READY)
    if os.read(waiting, len(GO)) != GO:
        os._exit(1)  # the keeper has ended
    os.close(waiting)
    _run(plan, verdict, key)


def _run(plan: dict[str, Any], verdict: int, key: bytes) -> NoReturn:
    """Play the role; only who does so to its end answers with the key."""
    code, answer = 1, b""
    try:
        ROLES[plan["role"]](plan)
        code, answer = 0, key
    except MemoryError:
        answer = MEMORY
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException as error:  # whatever foreign code raises is its result, and must not reach the frames above
        _explain(error)
    finally:
        _leave(code & 0xFF, verdict, answer)


def _explain(error: BaseException) -> None:
    """Print the traceback from the first frame that is not this package's."""
    own = f"{__name__.partition('.')[0]}{os.sep}"
    at = error.__traceback__
    while at is not None and own in at.tb_frame.f_code.co_filename:
        at = at.tb_next
    traceback.print_exception(error.with_traceback(at))


def _run_program(plan: dict[str, Any]) -> dict[str, Any]:
    """Run the source as the main module; its names."""
    return _run_as("__main__", plan["source"])


def _run_solution(plan: dict[str, Any]) -> None:
    """Run the source as a module that is not the main one, then answer calls."""
    solution.Solution(_run_as("solution", plan["source"])).serve(*plan["lines"])


def _run_examiner(plan: dict[str, Any]) -> None:
    examiner.examine(plan, *plan["lines"])


def _run_as(name: str, source: str) -> dict[str, Any]:
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(source, "<program>", "exec", dont_inherit=True), module.__dict__)
    return module.__dict__


ROLES = {"program": _run_program, "solution": _run_solution, "examiner": _run_examiner}


def _leave(code: int, verdict: int, answer: bytes) -> NoReturn:
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        try:
            WRITE(verdict, answer)
        finally:
            EXIT(code)
