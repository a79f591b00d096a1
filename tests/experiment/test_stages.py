"""A stage is done once per key, in a process of its own, and never half."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from farss.errors import ConfigError, FarssError
from farss.experiment import stages
from farss.experiment.stages import finished, run_stage, stage_key


@pytest.fixture(autouse=True)
def forked(monkeypatch):
    """The work of these tests is made of closures, which only a plain fork hands over; none of it computes."""
    monkeypatch.setattr(stages, "START_METHOD", "fork")


def counting(folder):
    log = folder.parent / "log"
    log.write_text(log.read_text() + "x" if log.exists() else "x")
    return {"pid": os.getpid()}


def test_done_once_per_key_in_another_process(tmp_path):
    first = run_stage(tmp_path / "stage", "a", counting)
    again = run_stage(tmp_path / "stage", "a", counting)
    assert first == again
    assert first["pid"] != os.getpid()
    assert (tmp_path / "log").read_text() == "x"
    run_stage(tmp_path / "stage", "b", counting)
    assert (tmp_path / "log").read_text() == "xx"


def test_an_outdated_folder_is_emptied_an_interrupted_one_kept(tmp_path):
    def leave_and_die(folder):
        (folder / "partial.safetensors").write_text("half-way")
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(FarssError, match="killed"):
        run_stage(tmp_path / "stage", "a", leave_and_die)
    assert finished(tmp_path / "stage", "a") is None
    seen = run_stage(tmp_path / "stage", "a", lambda folder: {"kept": (folder / "partial.safetensors").exists()})
    assert seen["kept"]
    seen = run_stage(tmp_path / "stage", "b", lambda folder: {"kept": (folder / "partial.safetensors").exists()})
    assert not seen["kept"]


def test_errors_come_through_with_message_and_exit_code(tmp_path):
    def refuse(folder):
        raise ConfigError("no good", where="here")

    with pytest.raises(FarssError, match="no good\n  where: here") as caught:
        run_stage(tmp_path / "stage", "a", refuse)
    assert caught.value.exit_code == 2
    assert finished(tmp_path / "stage", "a") is None


def test_an_unexpected_error_is_told_from_a_kill(tmp_path):
    with pytest.raises(FarssError, match="unexpected error") as caught:
        run_stage(tmp_path / "stage", "a", lambda folder: {"wrong": 1 / 0})
    assert caught.value.exit_code == 1


def test_keys_depend_on_content_alone():
    assert stage_key({"a": 1, "b": 2}) == stage_key({"b": 2, "a": 1})
    assert stage_key({"a": 1}) != stage_key({"a": 2})


def test_a_stage_ends_with_the_run_that_began_it(tmp_path, monkeypatch):
    monkeypatch.undo()  # a fork would hold both ends of the pipe
    script = tmp_path / "run.py"
    script.write_text(
        "import functools, pathlib, sys\n"
        "from farss.experiment.stages import run_stage\n"
        "from tests.experiment.lasting import lasts\n"
        "if __name__ == '__main__':\n"
        "    run_stage(pathlib.Path(sys.argv[1]), 'a', lasts)\n"
    )
    stage = tmp_path / "stage"
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"}
    parent = subprocess.Popen([sys.executable, str(script), str(stage)], env=environment)
    child = int(_content_of(stage / "pid"))
    parent.kill()
    parent.wait()
    for _ in range(200):
        if not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the stage outlived its run")


def _content_of(file, seconds=60):
    for _ in range(seconds * 20):
        if file.exists() and file.read_text():
            return file.read_text()
        time.sleep(0.05)
    pytest.fail("the stage did not begin")


@pytest.mark.case("what the processes of a run print is escaped")
def test_what_a_stage_prints_and_dies_of_is_escaped(tmp_path, capfd):
    def speak_and_fall(folder):
        print("\x1b[2J says the data", file=sys.stderr, flush=True)
        raise ZeroDivisionError("\x1b]0;owned\x07")

    with pytest.raises(FarssError, match="unexpected"):
        run_stage(tmp_path / "stage", "a", speak_and_fall)
    out, err = capfd.readouterr()
    assert "\\x1b[2J says the data" in err and "ZeroDivisionError: \\x1b]0;owned\\x07" in err
    assert "\x1b" not in out + err
