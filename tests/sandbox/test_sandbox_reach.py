"""Over a hundred programs that reach out of the sandbox, in every way that one is built: none gets out."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")

HERE = Path(__file__)
SOURCE = HERE.parents[2] / "src"
ORDINARY = 65533
"""Number of a user without rights, who is not the one that programs of the administrator run as."""
CONTROL = 90
"""Programs that get out where there is no sandbox, at least; the kernel keeps an ordinary user from the others."""


def _module(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, HERE.with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # for its dataclasses
    spec.loader.exec_module(module)
    return module


reaching, sandboxes = _module("reaching"), _module("sandboxes")


def as_ordinary_user(*options: str) -> list[str]:
    """What gets out where the caller itself is an ordinary user; skipped where such a user cannot run this."""
    python, given = sandboxes.readable_python(), {}
    if os.geteuid() == 0:
        given = {"user": ORDINARY, "group": ORDINARY, "extra_groups": []}
    done = subprocess.run(
        [python, str(HERE.with_name("reaching.py")), *options],
        **given,
        cwd="/",
        env={"PYTHONPATH": str(SOURCE), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode != 0 and ("Permission denied" in done.stderr or "no sandbox can be made" in done.stderr):
        pytest.skip(f"an ordinary user cannot run it here: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_there_are_many_programs_of_every_kind():
    assert len(reaching.ESCAPES) >= 120
    assert min(len(table) for table in reaching.GROUPS.values()) >= 10


@pytest.mark.case("no program reaches out of the sandbox")
@pytest.mark.parametrize("way", sandboxes.WAYS)
def test_none_gets_out(way):
    assert reaching.reach(sandboxes.protections_of(way), reaching.ESCAPES) == []


@pytest.mark.case("a program cannot have its caller killed by the kernel")
@pytest.mark.parametrize("options", [("--landlock", "3"), ("--landlock", "4"), (), ("--namespaces",)])
def test_none_gets_out_to_an_ordinary_user_who_runs_it(options):
    assert as_ordinary_user(*options) == []


def test_without_a_sandbox_they_get_out():
    lines = as_ordinary_user("--bare")
    assert [line for line in lines if line.startswith("BROKEN")] == []
    assert len(lines) >= CONTROL


@pytest.mark.slow
@pytest.mark.parametrize("way", sandboxes.WAYS)
def test_none_gets_out_by_itself(way):
    protections = sandboxes.protections_of(way)
    out = [line for name, source in reaching.ESCAPES.items() for line in reaching.reach(protections, {name: source})]
    assert out == []
