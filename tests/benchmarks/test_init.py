"""The benchmark of initialisations: every case runs, and what is drawn of the depths is what was measured."""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from farss.experiment.initialisation.outlook import forecast
from farss.maths.spectrum import decompose
from farss.model import spectra
from farss.model.calibration import Example

_SPEC = importlib.util.spec_from_file_location("elsewhere", Path(__file__).parents[1] / "elsewhere.py")
elsewhere = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(elsewhere)

CASES = ("floor", "resident", "streamed", "streamed-memory", "full", "full-padded", "pissa", "pissa-niter", "corda")
PEFTS = ("pissa", "pissa-niter", "corda")
BOUNDARY, WEIGHTS = 2_000_000, 500_000_000


def runs(**peaks: list[float]) -> list[dict]:
    """Figures of 4, 8 and 16 layers, peaks in MB."""
    found = []
    for number, layers in enumerate((4, 8, 16)):
        notes = {"boundary_bytes": BOUNDARY, "weights_bytes": WEIGHTS * layers}
        found.append(
            {
                "layers": layers,
                "medians": {name.replace("_", "-"): {"peak_bytes": rows[number] * 1e6} for name, rows in peaks.items()},
                "accounts": {name.replace("_", "-"): [notes] for name in peaks} | {"resident": [{}]},
            }
        )
    return found


def test_growth_by_depth_is_judged_at_its_steepest(benchmark_module):
    depth = benchmark_module("depth")
    text = depth.table(runs(streamed=[1000, 1008, 1016], streamed_memory=[1000, 1100, 1124]))
    assert "| 16 | 8.00 GB | 1.02 GB | 1.12 GB |" in text
    on_disk, in_memory = text.split("\n\n")[1:]
    assert "states on disk: 2.0 MB more per added layer, within a boundary of 0.0 MB" in on_disk
    assert "states in memory: 25.0 MB more per added layer, MORE THAN a boundary of 2.0 MB" in in_memory


def test_the_picture_says_what_it_shows(benchmark_module):
    picture = benchmark_module("depth").plot(runs(streamed=[1000, 1008, 1016]))
    assert "states on disk: 1.00 GB at 4, 1.01 GB at 8, 1.02 GB at 16" in picture
    assert "all weights of the model: 2.00 GB at 4" in picture and "states in memory" not in picture
    assert ElementTree.fromstring(picture).tag.endswith("svg")


def test_figures_of_one_form_each_make_one_table(benchmark_module):
    depth = benchmark_module("depth")
    text = depth.table(runs(streamed=[1000, 1008, 1016])[:2] + runs(streamed_memory=[1000, 1100, 1124]))
    assert "| 8 | 4.00 GB | 1.01 GB | 1.10 GB |" in text
    assert "| 16 | 8.00 GB | not measured | 1.12 GB |" in text


@pytest.mark.parametrize("cases", [["streamed-memory"], ["pissa", "floor"], ["floor", "streamed"]])
def test_any_case_may_run_without_ours(cases, benchmark_module, monkeypatch, capsys):
    init = benchmark_module("init")
    account = {"wall": 2.0, "processor": 4.0, "growth_bytes": 1, "peak_bytes": 10, "steps": {}}
    monkeypatch.setattr(init, "in_process", lambda name, task: dict(account))
    monkeypatch.setattr(init, "predicted", lambda name, task: {"predicted_bytes": 8, "predicted_seconds": 1.0})
    found = init.measure(argparse.Namespace(cases=cases, repeats=1), None)
    init.show(found)
    assert found["ratio_to"] == ("streamed" if "streamed" in cases else cases[0])
    assert f"{cases[0]:14}      2.00" in capsys.readouterr().out


@pytest.fixture
def small_task(benchmark_module, tiny_llama, tiny_tokenizer, tmp_path) -> Callable[..., Any]:
    """Makes a task of the tiny model, with settings of its own."""
    tiny_llama.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    examples = [Example(tuple(range(4, 12 + row)), (5, 6, 7)) for row in range(4)]
    return functools.partial(
        benchmark_module("init").Task, str(tmp_path), "float32", examples, 32, max_length=24, rank=4, threads=None
    )


@pytest.mark.parametrize("route", ["gram", "polar"])
@pytest.mark.parametrize("name", [name for name in CASES if name not in PEFTS])
def test_a_case_of_ours_computes_where_and_how_it_is_told_to(
    name, route, benchmark_module, small_task, tmp_path, monkeypatch
):
    """On a pretended device, which refuses to mix with the processor's tensors; PEFT's own code cannot use it."""
    init = benchmark_module("init")
    asked: list[str] = []
    taken: list[str] = []
    monkeypatch.setattr(init, "place", lambda wanted: asked.append(wanted) or elsewhere.ELSEWHERE)
    for module in (init, spectra):
        monkeypatch.setattr(module, "decompose", lambda weight, by: taken.append(by) or decompose(weight, by))
    with elsewhere.pretending(monkeypatch):
        account = init.case(name, small_task(device="cuda", route=route)).account()
    assert account["wall"] > 0 and account["peak_bytes"] > 0 and set(asked) == {"cuda"}
    assert set(taken) == (set() if name in ("full", "full-padded") else {route})


def test_the_resident_case_holds_one_spectrum_at_a_time(benchmark_module, small_task, monkeypatch):
    """As `farss init` does: those of all weights of a 7B model are 15 GB."""
    made: list[weakref.ref] = []

    def watched(weight, route):
        assert not any(reference() for reference in made[:-1])  # the last lives on until its name is taken again
        spectrum = decompose(weight, route)
        made.append(weakref.ref(spectrum))
        return spectrum

    monkeypatch.setattr(spectra, "decompose", watched)
    benchmark_module("init").case("resident", small_task())
    assert len(made) > 2 and not any(reference() for reference in made)


def test_a_prediction_is_for_the_route_that_runs(benchmark_module, small_task, monkeypatch):
    init = benchmark_module("init")
    asked: list[str] = []
    monkeypatch.setattr(init, "forecast", lambda *seen, route, **more: asked.append(route) or forecast(*seen, **more))
    assert init.predicted("resident", small_task(route="polar"))["predicted_seconds"] > 0
    assert asked == ["polar"]


@pytest.mark.slow
@pytest.mark.timeout(900)  # 18 processes that each import everything
def test_every_case_runs_on_a_small_shape_at_two_depths(scripts, tmp_path):
    out, picture = tmp_path / "init.json", tmp_path / "depth.svg"
    asked = ["--shape", "tiny", "--layers", "2", "3", "--rows", "4", "--length", "32", "--max-length", "48"]
    asked += ["--rank", "8", "--repeats", "1", "--route", "auto", "--cases", *CASES, "--out", str(out)]

    def program(name: str, *flags: str) -> str:
        command = [sys.executable, str(scripts / name), *flags]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=os.environ | {"FARSS_CACHE": str(tmp_path)}
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    printed = program("init.py", *asked)
    for run in json.loads(out.read_text())["runs"]:
        assert run["tokens"] == 128 and set(run["medians"]) == set(CASES)
        assert all(row["wall"] > 0 and row["peak_bytes"] > 0 for row in run["medians"].values())
        for case in ("resident", "streamed"):
            assert run["accounts"][case][0]["predicted_bytes"] > 0
    assert printed.count("predicted") == 4
    assert "| 3 |" in program("depth.py", str(out), "--plot", str(picture)) and picture.is_file()
