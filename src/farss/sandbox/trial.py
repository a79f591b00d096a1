"""Run inside the sandbox by `probe`: tries, harmlessly, what must not work, and prints how each attempt got through.

Never imported: its text is the program. A guarantee whose attempt fails is printed as null.
"""

import fcntl
import json
import os
import resource
import signal
import socket
import struct
import sys
import time

F_SETSIG, F_SETOWN_EX, FIOSETOWN = 10, 15, 0x8901
SPARE_CHILDREN = 2  # beyond the limit, so that a limit that binds is seen
DAEMON_SECONDS = 60


def main(text):
    """Try everything and print the results as JSON."""
    targets = json.loads(text)
    attempts = {
        "network": lambda: connect(targets["port"], targets["abstract"]),
        "writes": lambda: write(targets["mark"]),
        "reads": lambda: read(targets["secret"]),
        "environment": lambda: look_around(targets["known"], targets["caller"]),
        "signals": lambda: touch(targets["caller"], targets["canary"]),
        "names": lambda: learn(targets["secret"]),
        "memory": lambda: allocate(targets["limits"]["memory_bytes"]),
        "processes": lambda: multiply(targets["limits"]["processes"]),
    }
    found = {}
    for name, attempt in attempts.items():
        try:
            found[name] = attempt()
        except (OSError, MemoryError):
            found[name] = None
    hide()
    found["killing"] = None  # a daemon that outlives this program makes the caller's run fail
    print(json.dumps(found))


def first(*ways):
    """What the first way that works is called; None if none does."""
    for name, attempt in ways:
        try:
            attempt()
        except OSError:
            continue
        return name
    return None


def connect(port, abstract):
    """Connect to a server of the caller."""
    kinds = socket.SOCK_STREAM, socket.SOCK_DGRAM
    return first(
        ("a connection to this host was made", lambda: socket.create_connection(("127.0.0.1", port), timeout=5)),
        ("an abstract socket was reached", lambda: socket.socket(socket.AF_UNIX).connect(abstract)),
        ("a pair of sockets was connected anew", lambda: socket.socketpair(type=kinds[1])[0].connect(f"{abstract}-d")),
    )


def write(path):
    """Change a file outside, in one way or another."""
    for attempt in (lambda: os.truncate(path, 0), lambda: os.chmod(path, 0o600), lambda: os.utime(path)):
        try:
            attempt()
        except OSError:
            continue
        return "a file outside was changed"
    with open(path, "w") as file:
        file.write("changed")
    return "a file outside was written"


def read(path):
    """Read a file outside."""
    with open(path) as file:
        file.read()
    return "a file outside was read"


def look_around(known, caller):
    """Find variables of the caller's environment."""
    own = {"PATH", "HOME", "TMPDIR", "LANG"}
    seen = (set(known) & set(os.environ)) - own
    if seen:
        return "variables of the caller are set"
    with open(f"/proc/{caller}/environ", "rb") as file:
        file.read()
    return "the environment of the caller was read"


def touch(caller, canary):
    """Signal a process outside, by oneself or by the kernel, or change how it runs.

    The caller is only asked for; the canary is a process that was made to be killed.
    """
    ready, other = socket.socketpair()
    whom = struct.pack("ii", 1, canary)  # F_OWNER_PID

    def by_the_kernel(own):
        own()
        fcntl.fcntl(ready, F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(ready, fcntl.F_SETFL, os.O_ASYNC)
        other.send(b"x")

    return first(
        ("a process outside could be signalled", lambda: os.kill(caller, 0)),
        ("a process outside was killed", lambda: os.kill(canary, signal.SIGKILL)),
        ("the kernel was told to signal", lambda: by_the_kernel(lambda: fcntl.fcntl(ready, fcntl.F_SETOWN, canary))),
        ("the kernel was told to signal", lambda: by_the_kernel(lambda: fcntl.fcntl(ready, F_SETOWN_EX, whom))),
        ("the kernel was told to signal", lambda: by_the_kernel(lambda: fcntl.ioctl(ready, FIOSETOWN, whom[4:]))),
        ("a process outside runs less often", lambda: os.setpriority(os.PRIO_PROCESS, canary, 19)),
        ("a process outside runs elsewhere", lambda: os.sched_setaffinity(canary, {0})),
        ("a process outside is limited", lambda: resource.prlimit(canary, resource.RLIMIT_NOFILE, (64, 64))),
    )


def learn(path):
    """Find out that a file outside is there."""
    os.stat(path)
    return "the size and times of files outside can be asked for"


def allocate(most):
    """Take all the memory there may be."""
    block = bytearray(most)
    return f"{len(block)} bytes were allocated"


def multiply(most):
    """Start more processes than there may be, which end with this one."""
    reader, writer = os.pipe()
    made = 0
    try:
        while made < most + SPARE_CHILDREN:
            if os.fork() == 0:
                os.close(writer)
                os.read(reader, 1)  # returns when this program closes the pipe
                os._exit(0)
            made += 1
        return f"{made} processes were started, {most} are allowed"
    finally:
        os.close(writer)
        os.close(reader)
        for _ in range(made):
            os.wait()


def hide():
    """Leave a daemon that ignores signals, in a session of its own if it can be."""
    try:
        if os.fork():
            return
    except OSError:
        return
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
    except OSError:
        pass
    time.sleep(DAEMON_SECONDS)
    sys.stdout = None
    os._exit(0)
