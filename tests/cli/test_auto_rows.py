"""`--calibration-rows auto` through the verbs: the same in both engines, in a crew, in a run and on GLUE."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from farss.cli.main import main
from farss.experiment.initialisation import settling
from farss.model.plan import Plan

STEPS = [8, 16, 20]


@pytest.fixture
def auto(workshop, tmp_path):
    """A recipe whose rows are read until there are no more: a model of random weights agrees with itself late."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "What is {a}+{a * a}?", "completion": "{a + a * a}."}}\n' for a in range(20)))

    def recipe(name: str = "auto", **changes) -> str:
        settings = {"data.task": str(rows), "data.calibration_rows": "auto", "model.dtype": "float64", **changes}
        settings.setdefault("data.held_out", 0)  # an initialisation measures nothing
        return workshop.recipe(name, **settings)

    return recipe


@pytest.fixture
def never(monkeypatch):
    monkeypatch.setattr(settling, "STEADY_DIRECTIONS", 1.1)


def chosen(folder) -> list[tuple]:
    return [(row.name, row.rank, row.indices) for row in Plan.load(folder / "plan.json").targets]


def test_both_engines_read_the_same_rows_and_say_what_they_saw(farss, auto, tmp_path, never):
    answers = {}
    for engine in ("resident", "streamed"):
        code, out, err = farss("init", "--recipe", auto(), "--engine", engine, "--out", tmp_path / engine, "--json")
        assert code == 0, err
        answers[engine] = json.loads(out)
        assert [int(rows) for rows in re.findall(r"calibration: (\d+) rows", err)] == STEPS
        assert "there are no more" in err and err.count("more rows") == 2
        assert re.search(r"if all rows are read, .* if the first step is enough", err)
        assert answers[engine]["calibration_rows"] == 20
        assert answers[engine]["rows"]["used"] >= 20 and answers[engine]["rows"]["left_out"] == 0
        assert answers[engine]["predicted_least_seconds"] < answers[engine]["predicted_seconds"]
        assert not (tmp_path / f".{engine}.work").exists()
        data = Plan.load(tmp_path / engine / "plan.json").data
        assert data["rows"] == 20 and data["settled"] == answers[engine]["settled"]
    one, other = (answers[engine]["settled"]["steps"] for engine in answers)
    for mine, its in zip(one, other, strict=True):
        assert (mine["rows"], mine["tokens"]) == (its["rows"], its["tokens"])
        assert mine["agreed"] == pytest.approx(its["agreed"], rel=1e-6)
    assert chosen(tmp_path / "resident") == chosen(tmp_path / "streamed")
    assert farss("init", "--recipe", auto(), "--calibration-rows", 20, "--out", tmp_path / "number")[0] == 0
    assert chosen(tmp_path / "resident") == chosen(tmp_path / "number")
    auto_sums, sums = (load_file(tmp_path / place / "stats.safetensors") for place in ("resident", "number"))
    assert all(torch.allclose(value, auto_sums[name], rtol=1e-10, atol=1e-16) for name, value in sums.items())


def test_it_stops_as_soon_as_the_halves_agree(farss, auto, tmp_path, monkeypatch):
    monkeypatch.setattr(settling, "STEADY_DIRECTIONS", -10.0)
    monkeypatch.setattr(settling, "STEADY_RANKS", 10.0)
    code, out, err = farss("init", "--recipe", auto(), "--out", tmp_path / "init", "--json")
    assert code == 0 and json.loads(out)["calibration_rows"] == 8
    assert json.loads(out)["settled"]["reason"] == "the halves agree" and "the halves agree" in err
    plan = Plan.load(tmp_path / "init" / "plan.json")
    code, out, _ = farss("inspect", "--recipe", auto(), "--out", tmp_path / "look", "--json")
    report = json.loads(out)
    assert code == 0 and report["data"]["rows"] == 8 and report["data"]["sha256"] == plan.data["sha256"]
    assert report["warnings"] == [] and report["stability"]["steady"]
    assert [half["rows"] for half in report["data"]["halves"]] == [4, 4]
    assert report["predicted"]["least_seconds"] < report["predicted"]["seconds"]["total"]


def test_two_processes_read_what_one_does(farss, auto, tmp_path, never):
    recipe = auto()
    assert farss("init", "--recipe", recipe, "--out", tmp_path / "one")[0] == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "from farss.experiment.initialisation import settling; settling.STEADY_DIRECTIONS = 1.1; "
    code += (
        f"from farss.cli.main import main; main(['init', '--recipe', {recipe!r}, '--out', {str(tmp_path / 'two')!r}])"
    )
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"OMP_NUM_THREADS": "1"}
    crew = [subprocess.Popen([sys.executable, "-c", code], env={**common, "RANK": str(rank)}) for rank in (0, 1)]
    assert [process.wait(300) for process in crew] == [0, 0]
    one, two = (Plan.load(tmp_path / place / "plan.json") for place in ("one", "two"))
    assert chosen(tmp_path / "one") == chosen(tmp_path / "two")
    assert [step["rows"] for step in two.data["settled"]["steps"]] == STEPS
    assert one.data["sha256"] == two.data["sha256"]


def test_a_shard_needs_a_number(farss, auto, tmp_path):
    code, out, err = farss("init", "--recipe", auto(), "--shard", "1/2", "--out", tmp_path / "part")
    assert (code, out) == (2, "") and "cannot tell" in err and "data.calibration_rows" in err
    number = ("--calibration-rows", 8, "--shard", "1/2", "--out", tmp_path / "part")
    assert farss("init", "--recipe", auto(), *number)[0] == 0


def test_other_statistics_read_all_that_may_be_read(farss, auto, tmp_path):
    code, out, _ = farss("init", "--recipe", auto(), "--method", "corda-ipm", "--out", tmp_path / "init", "--json")
    assert code == 0 and json.loads(out)["calibration_rows"] == 20 and json.loads(out)["settled"] is None


def test_a_single_row_is_read(farss, auto, tmp_path):
    (tmp_path / "one.jsonl").write_text('{"prompt": "What is 1+1?", "completion": "2."}\n')
    task = ("--data", tmp_path / "one.jsonl")
    code, out, err = farss("init", "--recipe", auto(), *task, "--out", tmp_path / "init", "--json")
    assert code == 0 and json.loads(out)["calibration_rows"] == 1, err


def test_a_run_records_what_it_saw(farss, auto, tmp_path, workshop):
    task = {"data.task": "gsm8k", "methods": ["farss", "eva"]}
    code, _, err = farss("run", auto("run", **task), "--out", tmp_path / "run")
    assert code == 0, err
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert report["recipe"]["data"]["calibration_rows"] == "auto"
    assert report["data"]["calibration_rows"] == report["data"]["settled"]["steps"][-1]["rows"] == 8
    assert json.loads((tmp_path / "run" / "statistics" / "done.json").read_text())["rows"] == 8
    left = {file.name for file in (tmp_path / "run" / "statistics").iterdir()}
    assert left <= {"stats.safetensors", "done.json", "started.json", ".farss.json"}


@pytest.mark.parametrize("text", ["some", "8.5", ""])
def test_other_words_are_refused(capsys, tmp_path, text):
    with pytest.raises(SystemExit) as ended:
        main(["init", "--calibration-rows", text, "--out", str(tmp_path / "init")])
    assert ended.value.code == 2 and "a number of rows or auto" in capsys.readouterr().err
