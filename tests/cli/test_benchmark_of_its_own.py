"""Benchmarks as the task of a run, one of them of another package: listed, asked, compared, by PyTorch and by vLLM."""

from __future__ import annotations

import gzip
import importlib
import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from farss.errors import ConfigError
from farss.evaluation.benchmarks import registry
from farss.evaluation.records import Measurement

PACKAGE = """
from farss.datasets.files import data_file, read_rows
from farss.evaluation.benchmarks.base import Benchmark, BenchmarkResult, Sample, accuracy


def ask(run):
    rows = read_rows(data_file(run.data_dir, "parity/test"))[: run.limit]
    prompts = [f"{row['number']} is " for row in rows]
    words = run.backend.generate(prompts, max_new_tokens=4, stop=(), batch_size=2, progress=run.progress)
    samples = [
        Sample(str(row["number"]), prompt, said, {"short": len(said) < 4, "vowels": "e" in said}, group="small")
        for row, prompt, said in zip(rows, prompts, words)
    ]
    return BenchmarkResult({"short": accuracy([one.right["short"] for one in samples])}, samples)


PARITY = Benchmark("parity", "odd or even", ("parity/test",), ask, rule="vowels")
"""


def forget() -> None:
    importlib.invalidate_caches()
    registry.entry_points.cache_clear()
    registry._loaded.cache_clear()


def plant(site: Path, objects: str) -> None:
    info = site / "farss_parity-0.1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: farss-parity\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{objects}\n")
    (site / "farss_parity.py").write_text(PACKAGE)


@pytest.fixture
def installed(tmp_path, monkeypatch) -> Iterator[Path]:
    """The package as if it were installed; the folder it is in."""
    site = tmp_path / "site"
    plant(site, "parity = farss_parity:PARITY")
    monkeypatch.syspath_prepend(str(site))
    forget()
    yield site
    monkeypatch.undo()
    sys.modules.pop("farss_parity", None)
    forget()


def write_rows(file: Path, rows: list[dict]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(file, "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def data(workshop, tmp_path) -> Path:
    """The workshop's rows, and those of benchmarks."""
    folder = tmp_path / "data"
    shutil.copytree(workshop.data, folder)
    write_rows(folder / "parity" / "test.jsonl.gz", [{"number": number} for number in range(6)])
    halves = [{"problem": f"Halve {n}.", "answer": "1", "level": n, "subject": "x"} for n in (1, 2, 3)]
    write_rows(folder / "math" / "test_500.jsonl.gz", [row | {"unique_id": f"a/{row['level']}"} for row in halves])
    choices = [
        {
            "question": f"What comes after {n}?",
            "choices": {"text": [str(n + step) for step in (1, 2, 3, 4)], "label": list("ABCD")},
            "answerKey": "ABCD"[n % 4],
        }
        for n in range(6)
    ]
    write_rows(folder / "arc_easy" / "train.jsonl.gz", choices[:2])
    write_rows(folder / "arc_easy" / "test.jsonl.gz", choices)
    return folder


def test_it_is_listed_and_asked(farss, workshop, installed, data, tmp_path):
    code, text, err = farss("tasks", "--data-dir", data, "--json")
    assert code == 0, err
    (row,) = (row for row in json.loads(text) if row["name"] == "parity")
    assert row["kind"] == "benchmark" and row["rows"] == {"parity/test": 6}
    asked = ("--model", workshop.model, "--data-dir", data, "--tasks", "parity", "--task-rows", 5)
    code, text, err = farss("eval", *asked, "--out", tmp_path / "out")
    assert code == 0 and "benchmark/parity/short" in text, err
    samples = json.loads((tmp_path / "out" / "benchmark-samples.json").read_text())["parity"]
    assert [one["id"] for one in samples] == list("01234") and samples[0]["group"] == "small"


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ("parity = farss_parity:ask", "is no benchmark"),
        ("other = farss_parity:PARITY", "its name is 'parity'"),
        ("parity = farss_parity:MISSING", "cannot be loaded"),
        ("humaneval = farss_parity:PARITY", "more than one package has a benchmark"),
    ],
)
def test_what_is_none_is_refused_by_its_package(installed, objects, message):
    plant(installed, objects)
    forget()
    with pytest.raises(ConfigError, match=message) as refused:
        registry.get_benchmark(objects.partition(" ")[0])
    assert "farss-parity 0.1.0" in str(refused.value)


def compared(farss, workshop, data, out, methods, names, backend):
    changes = {
        "methods": methods,
        "data.data_dir": str(data),
        "eval.benchmarks": names,
        "eval.backend": backend,
        "eval.task_rows": 4,
        "eval.max_new_tokens": 4,
    }
    code, _, err = farss("run", workshop.recipe(f"benchmarks-{backend}", **changes), "--out", out)
    assert code == 0, err
    return json.loads((out / "report.json").read_text())


def answers(folder: Path) -> dict[tuple[str, str], bool | None]:
    found = Measurement.load(folder / "samples.jsonl.gz").task
    return {(one.task, one.id): one.correct for one in found}


@pytest.mark.parametrize(
    ("methods", "names"),
    [
        (["full", "farss"], ["parity"]),
        pytest.param(
            ["full", "lora", "dora"],
            ["parity", "math", "lm-eval:arc_easy"],
            marks=[pytest.mark.slow, pytest.mark.timeout(1200)],
        ),
    ],
    ids=["one", "several"],
)
def test_they_are_the_task_of_a_run_by_any_backend(
    methods, names, farss, workshop, installed, data, tmp_path, monkeypatch
):
    pytest.importorskip("math_verify")
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    stub = Path(__file__).parents[1] / "evaluation" / "vllm_stub.py"
    spec = importlib.util.spec_from_file_location("vllm_stub_to_plant", stub)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # its dataclasses look their module up
    spec.loader.exec_module(module)
    module.plant(installed)
    reports = {}
    for backend in ("torch", "vllm"):
        out = tmp_path / backend
        reports[backend] = compared(farss, workshop, data, out, methods, names, backend)
        for name in ("base", *(run["id"] for run in reports[backend]["runs"])):
            place = out / "base" if name == "base" else out / name / "eval"
            told = answers(place)
            asked = {task: [right for (of, _), right in told.items() if of == task] for task, _ in told}
            assert set(asked) == {"gsm8k", *names}
            assert set(asked["gsm8k"]) == {None}  # its held-out rows are scored by likelihood only
            assert all(None not in asked[task] for task in names)
            assert [len(asked[task]) for task in names] == [{"math": 3}.get(task, 4) for task in names]
    by_name = [{run["id"]: run for run in report["runs"]} for report in reports.values()]
    assert by_name[0].keys() == by_name[1].keys() and len(by_name[0]) == len(methods)
    for name, run in by_name[0].items():
        other = by_name[1][name]
        assert run["compared"]["T_l"]["value"] == pytest.approx(other["compared"]["T_l"]["value"], abs=1e-3)
        for score, found in run["scores"].items():
            assert other["scores"][score]["value"] == pytest.approx(found["value"], abs=1e-3), score
