"""Run inside the sandbox by `probe`: tries, harmlessly, what must not work, and prints how each attempt got through.

Never imported: its text is the program. A guarantee whose attempt fails is printed as null.
"""

import json
import os
import signal
import socket
import sys
import time

SPARE_CHILDREN = 2  # beyond the limit, so that a limit that binds is seen
DAEMON_SECONDS = 60


def main(text):
    """Try everything and print the results as JSON."""
    targets = json.loads(text)
    attempts = {
        "network": lambda: connect(targets["port"]),
        "writes": lambda: write(targets["mark"]),
        "reads": lambda: read(targets["secret"]),
        "environment": lambda: look_around(targets["known"], targets["caller"]),
        "signals": lambda: touch(targets["caller"]),
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


def connect(port):
    """Connect to a server of the caller."""
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    return "a connection to this host was made"


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


def touch(caller):
    """Ask whether the caller could be signalled."""
    os.kill(caller, 0)  # asks for the permission only
    return "a process outside could be signalled"


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
