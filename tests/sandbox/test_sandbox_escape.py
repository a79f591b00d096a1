"""Programs that try to get out of the sandbox: none may, the caller stays unharmed, and nothing is left running."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from farss.sandbox import Limits, run_program

_SPEC = importlib.util.spec_from_file_location("sandboxes", Path(__file__).with_name("sandboxes.py"))
assert _SPEC is not None and _SPEC.loader is not None
sandboxes = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(sandboxes)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")

SMALL = Limits(
    cpu_seconds=5, wall_seconds=10.0, memory_bytes=128 << 20, processes=4, file_bytes=1 << 20, output_bytes=10_000
)
BRIEF = Limits(**{**vars(SMALL), "wall_seconds": 1.0})


@pytest.fixture(params=sandboxes.WAYS)
def protections(request):
    return sandboxes.protections_of(request.param)


@pytest.fixture
def run(protections):
    """Run a program; afterwards the caller is as it was and no process of the program is left."""

    def run(source, limits=SMALL):
        mark = sandboxes.Mark()
        before = sandboxes.state()
        outcome = run_program(mark.code + source, limits, protections=protections)
        assert sandboxes.back_to(before)
        assert mark.left() == []
        return outcome

    return run


@pytest.fixture
def outside():
    """A folder that every user may change, so that only the sandbox is in the way."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)


def attempts(*lines: str) -> str:
    """A program that prints which of the lines ran without an OSError."""
    body = "".join(f"try:\n    {line}\n    print({line!r})\nexcept OSError: pass\n" for line in lines)
    return f"import os, shutil, signal, socket\n{body}"


def test_the_attempts_are_told_apart(run):
    outcome = run(attempts("open('own', 'w').write('x')", "open('/nowhere/file')"))
    assert outcome.passed, outcome
    assert outcome.stdout == "open('own', 'w').write('x')\n"


def test_network(run):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        server.setblocking(False)
        datagrams.setblocking(False)
        to_stream, to_datagrams = server.getsockname(), datagrams.getsockname()
        outcome = run(
            attempts(
                f"socket.create_connection({to_stream!r}, timeout=2)",
                f"socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', {to_datagrams!r})",
                "socket.socket(socket.AF_UNIX)",
                "socket.create_server(('127.0.0.1', 0))",
            )
        )
        assert outcome.passed and outcome.stdout == "", outcome
        with pytest.raises(BlockingIOError):
            server.accept()
        with pytest.raises(BlockingIOError):
            datagrams.recv(1)


BOMB = """
import os, time
while True:
    try:
        if os.fork() == 0:
            os.write(1, b".")
    except OSError:
        time.sleep(0.02)
"""


def test_fork_bomb(run, protections):
    assert "processes" in protections.holds  # or the bomb must not be lit
    outcome = run(BOMB, BRIEF)
    assert outcome.status == "timeout"
    assert outcome.stdout.count(".") < SMALL.processes, outcome


def test_thread_bomb(run):
    outcome = run(
        "import threading, time\n"
        "for _ in range(100): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
    )
    assert outcome.status == "failed" and "can't start new thread" in outcome.stderr, outcome


@pytest.mark.parametrize(
    "source",
    ["bytearray(1 << 40)", "held = []\nwhile True: held.append(bytearray(1 << 20))"],
    ids=["at once", "bit by bit"],
)
def test_memory(run, source):
    outcome = run(source)
    assert outcome.status == "memory", outcome


def test_memory_that_no_limit_counts(run):
    outcome = run(
        attempts("os.memfd_create('a')")
        + "libc = ctypes.CDLL(None)\n"
        + "if libc.shmget(0, 1 << 20, 0o1600) != -1: print('shmget')\n"
    )
    assert outcome.passed and outcome.stdout == "", outcome


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_endless_output(run, stream):
    outcome = run(f"import sys\nwhile True: sys.{stream}.write('x' * 1000)")
    assert outcome.status == "output", outcome
    assert outcome.seconds < SMALL.wall_seconds
    assert len(outcome.stdout) <= SMALL.output_bytes and len(outcome.stderr) <= SMALL.output_bytes


LOOK = """
import glob, os
found = dict(os.environ)
print(sorted(found))
for path in ["/proc/{caller}/environ", *glob.glob("/proc/*/environ")]:
    try:
        print(open(path, "rb").read())
    except OSError:
        pass
"""


def test_environment_of_the_caller(run):
    # /proc shows the environment a process was started with, so a variable is looked for that this one was given.
    given = Path("/proc/self/environ").read_bytes().split(b"\0")[0].decode()
    outcome = run(LOOK.format(caller=os.getpid()))
    assert outcome.passed, outcome
    assert outcome.stdout == "['HOME', 'LANG', 'PATH', 'TMPDIR']\n"
    assert given not in outcome.stdout


def test_variables_set_later_are_not_passed_on(run, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "secret-value")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/secret-value")
    outcome = run(LOOK.format(caller=os.getpid()))
    assert outcome.passed and "secret" not in outcome.stdout.lower(), outcome


def test_reading_elsewhere(run, outside):
    (outside / "secret").write_text("secret")
    outcome = run(
        attempts(
            f"open({str(outside / 'secret')!r})",
            f"os.listdir({str(outside)!r})",
            "open('/etc/passwd')",
            "os.listdir('/proc')",
            "os.listdir('/home')",
        )
    )
    assert outcome.passed and outcome.stdout == "", outcome


def test_writing_elsewhere(run, outside):
    target = outside / "target"
    target.write_text("untouched")
    os.chmod(target, 0o666)
    before = target.stat()
    path, folder = str(target), str(outside)
    outcome = run(
        attempts(
            f"open({path!r}, 'w')",
            f"open({path!r}, 'r+')",
            f"os.truncate({path!r}, 0)",
            f"os.chmod({path!r}, 0)",
            f"os.chown({path!r}, 1, 1)",
            f"os.utime({path!r}, (0, 0))",
            f"os.setxattr({path!r}, 'user.a', b'b')",
            f"os.unlink({path!r})",
            f"os.rename({path!r}, 'own')",
            f"os.link({path!r}, 'own')",
            f"os.mkdir({folder + '/new'!r})",
            f"os.symlink('/', {folder + '/new'!r})",
            f"open({folder + '/new'!r}, 'w')",
            "open('/new', 'w')",
            "os.mkdir('/new')",
            "open(os.__file__, 'a')",
            "os.chmod(os.__file__, 0)",
            "open('/dev/shm/new', 'w')",
            "open('/tmp/farss-escaped', 'w')",
            "os.mknod('device', 0o20666, 0x0103)",
        )
    )
    assert outcome.passed and outcome.stdout == "", outcome
    assert target.read_text() == "untouched"
    assert [file.name for file in outside.iterdir()] == ["target"]
    after = target.stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_uid) == (before.st_mode, before.st_mtime_ns, before.st_uid)


def test_the_link_out_of_its_folder(run, outside):
    outcome = run(f"import os\nos.symlink({str(outside)!r}, 'out')\nopen('out/new', 'w')")
    assert outcome.status == "failed", outcome
    assert list(outside.iterdir()) == []


def test_what_it_writes_is_gone_afterwards(run):
    program = "import os, tempfile\nopen('own', 'w').write('x')\nprint(os.getcwd(), tempfile.gettempdir())"
    outcome = run(program)
    assert outcome.passed, outcome
    assert not any(Path(folder).exists() for folder in outcome.stdout.split())


def test_signals_to_processes_outside(run):
    caller = os.getpid()
    outcome = run(
        attempts(f"os.kill({caller}, 0)", f"os.kill({caller}, signal.SIGKILL)", f"os.killpg({os.getpgid(0)}, 0)")
    )
    assert outcome.passed and outcome.stdout == "", outcome


def test_killing_its_own_keeper(run):
    outcome = run("import os, signal\ntry: os.kill(os.getppid(), signal.SIGKILL)\nexcept OSError: pass\nprint('on')")
    assert outcome.passed and outcome.stdout == "on\n", outcome


IGNORING = """
import signal, time
for number in set(signal.Signals) - {{signal.SIGKILL, signal.SIGSTOP}}:
    signal.signal(number, signal.SIG_IGN)
{then}
"""


def test_ignoring_signals_while_it_sleeps(run):
    outcome = run(IGNORING.format(then="time.sleep(600)"), BRIEF)
    assert outcome.status == "timeout" and outcome.exit_code is None, outcome


def test_ignoring_signals_while_it_works(run):
    limits = Limits(**{**vars(SMALL), "cpu_seconds": 1, "wall_seconds": 60.0})
    outcome = run(IGNORING.format(then="while True: pass"), limits)
    assert outcome.status == "timeout" and outcome.exit_code == -signal.SIGKILL, outcome


def test_handling_the_signals_at_the_limit(run):
    handler = "def again(*_): signal.alarm(1)\n"
    handler += "for name in ('SIGTERM', 'SIGALRM', 'SIGINT', 'SIGXCPU'): signal.signal(getattr(signal, name), again)\n"
    outcome = run(f"import signal, time\n{handler}signal.alarm(1)\nwhile True: time.sleep(1)", BRIEF)
    assert outcome.status == "timeout", outcome


def test_stopping_itself(run):
    outcome = run("import os, signal\nsignal.raise_signal(signal.SIGSTOP)\nwhile True: pass", BRIEF)
    assert outcome.status in ("timeout", "failed"), outcome  # "failed": it may send no signals at all


DAEMON = """
import os, signal, sys, time
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGALRM):
    signal.signal(number, signal.SIG_IGN)
if os.fork() == 0:
    for leave in (os.setsid, lambda: os.setpgid(0, 0)):
        try:
            leave()
        except OSError:
            pass
    if os.fork() == 0:
        {close}
        time.sleep(600)
    os._exit(0)
os.wait()
print("done", flush=True)
{then}
"""


@pytest.mark.parametrize("close", ["pass", "os.closerange(0, 64)"], ids=["holding its output", "without files"])
@pytest.mark.parametrize(("then", "status"), [("pass", "passed"), ("time.sleep(600)", "timeout")])
def test_daemon(run, protections, close, then, status):
    if protections.arrangement.namespaces == "none" and protections.arrangement.user is None:
        pytest.skip("this user's other processes are counted too, so a program can start none")
    outcome = run(DAEMON.format(close=close, then=then), BRIEF)
    assert outcome.status == status, outcome
    assert outcome.stdout == "done\n"


def test_deep_recursion(run):
    outcome = run("import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()")
    assert outcome.status in ("failed", "memory", "killed", "timeout"), outcome  # as the interpreter happens to run out


def test_crash(run):
    outcome = run("ctypes.string_at(0)")
    assert outcome.status == "killed" and outcome.exit_code == -signal.SIGSEGV, outcome


def test_huge_file(run):
    outcome = run("with open('big', 'wb') as file:\n    while True: file.write(bytes(1 << 16))")
    assert outcome.status == "failed" and "OSError" in outcome.stderr, outcome


def test_sparse_file(run):
    outcome = run("import os\nos.truncate(os.open('big', os.O_CREAT | os.O_RDWR), 1 << 40)")
    assert outcome.status == "failed" and "File too large" in outcome.stderr, outcome


def test_many_files(run, protections):
    if protections.arrangement.namespaces == "none":
        pytest.skip("only each file is limited where there are no namespaces")
    outcome = run("for i in range(100): open(f'{i}', 'wb').write(bytes(1 << 16))")
    assert outcome.status == "failed" and "No space left" in outcome.stderr, outcome


RIGHTS = """
import os
libc = ctypes.CDLL(None, use_errno=True)
for flag in (0x10000000, 0x20000, 0x20000000, 0x40000000):
    if libc.unshare(flag) != -1: print("unshare", flag)
    if libc.syscall(56 if os.uname().machine == "x86_64" else 220, flag | 17, 0, 0, 0, 0) != -1: print("clone", flag)
if libc.mount(b"none", os.getcwd().encode(), b"tmpfs", 0, None) != -1: print("mount")
if libc.chroot(b".") != -1: print("chroot")
if libc.ptrace(0, 0, 0, 0) != -1: print("ptrace")
for change in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0])):
    try:
        change()
        print("identity")
    except OSError:
        pass
print(os.getuid() != 0)
"""


def test_gaining_rights(run):
    outcome = run(RIGHTS)
    assert outcome.passed and outcome.stdout == "True\n", outcome


def test_raising_its_own_limits(run):
    outcome = run(
        "import resource\n"
        "for name in ('AS', 'CPU', 'NPROC', 'FSIZE', 'NOFILE'):\n"
        "    limit = getattr(resource, 'RLIMIT_' + name)\n"
        "    try:\n"
        "        resource.setrlimit(limit, (resource.getrlimit(limit)[1] + 1,) * 2)\n"
        "        print(name)\n"
        "    except (ValueError, OSError): pass\n"
    )
    assert outcome.passed and outcome.stdout == "", outcome


CALLER = """
import sys
from farss.sandbox import Limits, probe, run_program
protections = probe({python!r}, namespaces={namespaces})
run_program({source!r}, Limits(wall_seconds=60.0), protections=protections)
"""


def test_it_ends_when_its_caller_is_killed(protections, outside):
    mark = sandboxes.Mark()
    how = protections.arrangement
    script = CALLER.format(
        python=how.python, namespaces=how.namespaces != "none", source=mark.code + "import time; time.sleep(600)"
    )
    # The killed caller cannot remove the sandbox's folder, so it makes it where the test does.
    caller = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "TMPDIR": str(outside)})
    try:
        ends = time.monotonic() + 60
        while not mark.alive() and time.monotonic() < ends:
            assert caller.poll() is None
            time.sleep(0.02)
        assert mark.alive()
    finally:
        caller.kill()
        caller.wait()
    assert mark.left() == []
