"""The sandbox as its caller sees it: how runs end, what is refused, many programs at a time."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
import time
from pathlib import Path

import pytest

from farss.errors import ConfigError, SandboxError
from farss.sandbox import GUARANTEES, MINIMUM, Limits, Protections, probe, require, run_program, run_programs
from farss.sandbox.process import Arrangement, run_in
from farss.sandbox.protections import try_out

_SPEC = importlib.util.spec_from_file_location("sandboxes", Path(__file__).with_name("sandboxes.py"))
assert _SPEC is not None and _SPEC.loader is not None
sandboxes = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(sandboxes)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")


@pytest.fixture(scope="module")
def protections():
    found = probe()
    try:
        require(found)
    except SandboxError as error:
        pytest.skip(f"no sandbox here: {error}")
    return found


@pytest.mark.parametrize(
    ("source", "status", "code"),
    [
        ("print('hello')", "passed", 0),
        ("", "passed", 0),
        ("assert 1 == 2", "failed", 1),
        ("def f(:", "failed", 1),
        ("\0", "failed", 1),
        ("'\ud800'", "failed", 1),
        ("raise KeyboardInterrupt", "failed", 1),
        ("import sys; sys.exit(3)", "failed", 3),
        ("import sys; sys.exit('bad')", "failed", 1),
        ("raise MemoryError", "memory", 1),
    ],
)
def test_status_and_exit_code(protections, source, status, code):
    outcome = run_program(source, protections=protections)
    assert (outcome.status, outcome.exit_code) == (status, code), outcome


@pytest.mark.parametrize(
    "leaving",
    [
        "import sys; sys.exit(0)",
        "import sys; sys.exit()",
        "raise SystemExit",
        "import os; os._exit(0)",
        "import os; os.write(3, b'x' * 100); os._exit(0)",
        "import os, sys; os.closerange(0, 64); sys.exit(0)",
        "import os; os._exit = os.write = None; raise SystemExit(0)",
        "import os; os.execv('/usr/bin/true', ['true'])",
    ],
)
def test_leaving_before_the_last_statement_is_no_pass(protections, leaving):
    outcome = run_program(f"{leaving}\nraise AssertionError('the tests')", protections=protections)
    assert outcome.status == "failed", outcome


def test_a_program_may_break_its_own_streams_and_pass(protections):
    assert run_program("import sys, os; sys.stdout = None; os.write = os._exit = None", protections=protections).passed


def test_output_and_errors_are_kept(protections):
    program = "import sys\nprint('één', flush=True)\nprint('two', file=sys.stderr)\n1 / 0"
    outcome = run_program(program, protections=protections)
    assert outcome.stdout == "één\n"
    assert outcome.stderr.startswith("two\n") and outcome.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_the_end_of_long_errors_is_kept(protections):
    outcome = run_program("import sys\nsys.stderr.write('x' * 30000 + 'end')", protections=protections)
    assert outcome.passed and len(outcome.stderr) < 3000 and outcome.stderr.endswith("xend")


def test_a_program_is_the_main_module_with_no_input(protections):
    program = (
        "import sys, __main__\nassert __name__ == '__main__' and __main__.sys is sys\nassert sys.stdin.read() == ''"
    )
    outcome = run_program(program, protections=protections)
    assert outcome.passed, outcome


def test_the_order_of_sets_is_the_same_in_every_run(protections):
    program = "print({str(i) for i in range(50)})"
    assert len({run_program(program, protections=protections).stdout for _ in range(3)}) == 1


def test_the_standard_library_is_there_and_nothing_else(protections):
    outcome = run_program(
        "import asyncio, collections, csv, heapq, json, math, re, sqlite3, subprocess, tempfile, threading\n"
        "async def two(): return 2\n"
        "assert asyncio.run(two()) == 2\n"
        "worker = threading.Thread(target=open, args=('made', 'w')); worker.start(); worker.join()\n"
        "assert open('made').read() == ''\n"
        "for name in ('farss', 'torch', 'inside', 'limits'):\n"
        "    try: __import__(name)\n"
        "    except ModuleNotFoundError: continue\n"
        "    raise AssertionError(name)\n",
        protections=protections,
    )
    assert outcome.passed, outcome


def test_wall_time_is_measured_and_limited(protections):
    outcome = run_program("import time; time.sleep(0.3)", protections=protections)
    assert outcome.passed and 0.3 <= outcome.seconds < 5
    began = time.monotonic()
    outcome = run_program("import time; time.sleep(60)", Limits(wall_seconds=0.5), protections=protections)
    assert (outcome.status, outcome.exit_code) == ("timeout", None)
    assert 0.5 <= outcome.seconds < 5 and time.monotonic() - began < 30


def test_output_before_a_limit_is_kept(protections):
    program = "import time; print('before', flush=True); time.sleep(60)"
    outcome = run_program(program, Limits(wall_seconds=0.5), protections=protections)
    assert outcome.status == "timeout" and outcome.stdout == "before\n"


def test_many_programs_keep_their_order(protections):
    announced, seen = [], []
    sources = [f"import time; time.sleep({0.2 if i == 0 else 0}); print({i})" for i in range(6)]
    outcomes = run_programs(
        sources,
        workers=2,
        protections=protections,
        announce=announced.append,
        progress=lambda *done: seen.append(done),
    )
    assert [outcome.stdout for outcome in outcomes] == [f"{i}\n" for i in range(6)]
    assert announced == [str(protections)]
    assert seen == [(i, 6) for i in range(1, 7)]


def test_the_protections_are_told_on_standard_error(protections, capsys):
    run_programs(["pass"], protections=protections)
    told = capsys.readouterr().err
    assert told.startswith("sandbox: resource limits, ")
    assert all(f"keeps from {name}" in told for name in MINIMUM) and "NOT ENFORCED" not in told


@pytest.mark.parametrize("lacking", MINIMUM)
def test_without_one_protection_nothing_runs_unless_told(protections, lacking):
    weaker = Protections(protections.arrangement, protections.holds - {lacking}, {lacking: "the reason"})
    for refused in (
        lambda: run_program("pass", protections=weaker),
        lambda: run_programs(["pass"], protections=weaker),
    ):
        with pytest.raises(SandboxError, match=f"{lacking}.*\n.*the reason"):
            refused()
    assert f"NOT ENFORCED, {lacking}" in str(weaker)
    rest = tuple(name for name in MINIMUM if name != lacking)
    assert run_program("pass", protections=weaker, minimum=rest).passed


def test_a_protection_that_is_off_is_found_missing():
    how = sandboxes.protections_of("open").arrangement
    without = try_out(dataclasses.replace(how, landlock=0), {})
    assert not {"reads", "writes"} & without.holds and {"network", "killing"} <= without.holds
    assert "was read" in without.missing["reads"] and "was changed" in without.missing["writes"]


@pytest.mark.case("the protections that are named are really active")
def test_the_trial_finds_that_the_kernel_can_be_told_to_signal():
    how = sandboxes.protections_of("open").arrangement
    without = try_out(dataclasses.replace(how, seccomp=False, landlock=min(how.landlock, 5)), {})
    assert "signals" not in without.holds and without.missing["signals"], without


def test_names_outside_are_hidden_by_namespaces_alone_and_never_demanded():
    found = sandboxes.protections_of("open")
    assert "names" not in found.holds and "NOT ENFORCED, names" in str(found)
    assert "names" in GUARANTEES and "names" not in MINIMUM
    with pytest.raises(SandboxError, match="names"):
        require(found, GUARANTEES)


CROWDS = {
    "folders": "import os\nfor i in range(10**6): os.mkdir(f'{i}')",
    "files": "for i in range(10**6): open(f'{i}', 'w').close()",
    "a deep tree": "import os\nwhile True: os.mkdir('in'); os.chdir('in')",
    "large files": "for i in range(10**3): open(f'{i}', 'wb').write(bytes(1 << 16))",
}


@pytest.mark.case("a program that makes very many files does not hold its place for minutes")
@pytest.mark.parametrize("way", sandboxes.WAYS)
@pytest.mark.parametrize("crowd", CROWDS)
def test_many_files_are_stopped_and_removed_in_time(way, crowd):
    limits = Limits(wall_seconds=20.0, files=500, file_bytes=1 << 20)
    began = time.monotonic()
    outcome = run_program(CROWDS[crowd], limits, protections=sandboxes.protections_of(way))
    assert outcome.status in ("files", "failed") and not outcome.passed, outcome
    assert time.monotonic() - began < 20.0


def test_what_a_program_leaves_is_removed_whatever_it_is(tmp_path):
    from farss.sandbox.inside import folder

    place = tmp_path / "own"
    (place / "a" / "b").mkdir(parents=True)
    (place / "a" / "b" / "file").write_text("x")
    (place / "link").symlink_to(tmp_path)
    handle = os.open(place, os.O_RDONLY)
    for _ in range(1100):  # deeper than recursion goes
        os.mkdir("d", dir_fd=handle)
        inner = os.open("d", os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = inner
    os.close(handle)
    os.chmod(place / "a", 0)
    assert folder.holds_too_much(str(place), 10**6, 1 << 40) and folder.holds_too_much(str(place), 3, 1 << 40)
    assert not folder.remove(str(place), 0.0) and place.exists()
    assert folder.remove(str(place), 60.0)
    assert not place.exists() and tmp_path.exists()


def test_namespaces_hold_without_the_walls_behind_them():
    how = sandboxes.protections_of("namespaces").arrangement
    alone = try_out(dataclasses.replace(how, landlock=0, seccomp=False), {})
    assert alone.holds == set(GUARANTEES), alone.missing


def test_a_sandbox_that_cannot_be_set_up_runs_nothing(protections, tmp_path):
    with pytest.raises(SandboxError, match="does not start"):
        run_in(Arrangement(str(tmp_path / "no-python")), "print('ran')", Limits())
    with pytest.raises(SandboxError, match="could not be set up"):
        run_in(Arrangement("/bin/true"), "print('ran')", Limits())
    if protections.arrangement.namespaces != "none":
        # Inside a user namespace of its own a process cannot become a user that is not there.
        with pytest.raises(SandboxError, match="was not run"):
            run_in(Arrangement(protections.arrangement.python, "user", user=70_000), "print('ran')", Limits())


def test_another_system_is_refused(monkeypatch):
    probe.cache_clear()
    monkeypatch.setattr(sys, "platform", "darwin")
    try:
        with pytest.raises(SandboxError, match="needs Linux"):
            run_program("pass", minimum=())
    finally:
        probe.cache_clear()


@pytest.mark.parametrize("wrong", [{"cpu_seconds": 0}, {"processes": -1}, {"memory_bytes": 1 << 20}])
def test_impossible_limits_are_refused(wrong):
    with pytest.raises(ConfigError):
        Limits(**wrong)


def test_no_workers_are_refused(protections):
    with pytest.raises(ConfigError, match="worker"):
        run_programs(["pass"], workers=0, protections=protections)
