"""A block is ended where it takes more time or memory than it may, and leaves everything as it was."""

from __future__ import annotations

import resource
import signal
import threading
import time

import pytest

from farss.bounded import OutOfBounds, bounded

MIB = 1 << 20


def state():
    return (
        signal.getsignal(signal.SIGPROF),
        signal.getitimer(signal.ITIMER_PROF),
        resource.getrlimit(resource.RLIMIT_AS),
    )


def test_a_block_that_computes_on_and_on_is_ended():
    before = state()
    with pytest.raises(OutOfBounds, match=r"0\.05 s"), bounded(0.05, 64 * MIB):
        while True:
            pass
    assert state() == before


def test_a_block_that_asks_for_too_much_memory_is_ended():
    before = state()
    with pytest.raises(OutOfBounds, match="64 MiB"), bounded(5, 64 * MIB):
        "a" * (256 * MIB)
    assert state() == before and len("a" * (65 * MIB)) == 65 * MIB


def test_what_is_within_its_bounds_passes_and_errors_pass_as_they_are():
    before = state()
    with bounded(5, 64 * MIB):
        value = sum(range(1000))
    with pytest.raises(KeyError), bounded(5, 64 * MIB):
        {}["x"]
    assert value == 499500 and state() == before


def test_time_of_others_does_not_count():
    with bounded(0.05, 64 * MIB):
        time.sleep(0.2)


def test_a_clock_of_somebody_else_is_left_running():
    signal.signal(signal.SIGPROF, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_PROF, 50)
    try:
        with bounded(0.01, 64 * MIB):
            assert signal.getsignal(signal.SIGPROF) == signal.SIG_IGN
        assert signal.getitimer(signal.ITIMER_PROF)[0] > 40
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)


def test_another_thread_runs_without_bounds():
    found = []

    def work():
        with bounded(0.001, 1):
            found.append(len("a" * (16 * MIB)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [16 * MIB]
