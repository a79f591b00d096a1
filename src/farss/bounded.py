"""Code of others that runs in this process, with a bound of computing time and of memory.

What can be tried beforehand is tried in a process of its own (`farss.patterns`). A chat template cannot: what it does
depends on every conversation it is given. Setting the bounds takes microseconds.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

try:
    import resource
except ImportError:  # a system without such limits
    resource = None

SIZES = "/proc/self/statm"
"""Where Linux tells the size of a process, in pages."""


class OutOfBounds(Exception):
    """A bounded block computed longer, or asked for more memory, than it may; its text says which."""


@contextmanager
def bounded(seconds: float, memory: int) -> Iterator[None]:
    """A block that is ended where it takes too much.

    Only in the main thread, which alone can be interrupted, and where the system has such limits; elsewhere the block
    runs without.

    Args:
        seconds: of computing time; time that other processes take does not count.
        memory: bytes that the process may grow by.

    Raises:
        OutOfBounds: if the block takes more.
    """
    if resource is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before, limits = _start_clock(seconds), resource.getrlimit(resource.RLIMIT_AS)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (_most(memory, limits[0]), limits[1]))
        yield
    except MemoryError:
        raise OutOfBounds(f"more than {memory >> 20:,} MiB of memory") from None
    finally:
        _stop_clock(before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def _start_clock(seconds: float) -> Any:
    """Have the time run out; returns who listened for it before, None if somebody has a clock running (a profiler)."""
    if signal.getitimer(signal.ITIMER_PROF)[0]:
        return None

    def out_of_time(number: int, frame: FrameType | None) -> None:
        raise OutOfBounds(f"more than {seconds:g} s of computing time")

    before = signal.signal(signal.SIGPROF, out_of_time)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    return before


def _stop_clock(before: Any) -> None:
    if before is not None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _most(memory: int, present: int) -> int:
    """The limit of the address space; the present one where that is lower, or the size cannot be told."""
    assert resource is not None
    try:
        file = os.open(SIZES, os.O_RDONLY)  # a fourth of the time of `Path.read_bytes`, and asked row by row
    except OSError:
        return present
    try:
        pages = int(os.read(file, 64).split(maxsplit=1)[0])
    finally:
        os.close(file)
    most = pages * resource.getpagesize() + memory
    return most if present == resource.RLIM_INFINITY else min(most, present)
