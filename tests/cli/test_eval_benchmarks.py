"""`farss eval` with benchmarks: the sandbox is announced, samples are kept, and what is missing is said first."""

from __future__ import annotations

import gzip
import json

import pytest

from farss.errors import ConfigError, SandboxError
from farss.evaluation.backends import TorchBackend
from farss.evaluation.benchmarks.code import BENCHMARKS as CODE
from farss.evaluation.benchmarks.registry import check_files, own
from farss.experiment.scoring import Requested
from farss.sandbox import Protections, probe, require


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def data(tmp_path):
    """Three problems: return the number of the function."""
    rows = [
        {
            "task_id": f"Toy/{n}",
            "prompt": f'def f{n}():\n    """Return {n}."""\n',
            "entry_point": f"f{n}",
            "canonical_solution": f"    return {n}\n",
            "test": f"def check(candidate):\n    assert candidate() == {n}\n",
        }
        for n in range(3)
    ]
    write(tmp_path / "data" / "humaneval" / "test.jsonl.gz", rows)
    questions = [{"question": f"Capital of {land}", "answer": town} for land, town in (("Ada", "Bo"), ("Cee", "Di"))]
    write(tmp_path / "data" / "capitals" / "test.jsonl.gz", questions)
    return tmp_path / "data"


@pytest.fixture
def sandbox():
    try:
        require(probe())
    except SandboxError as error:
        pytest.skip(f"no sandbox here: {error}")


@pytest.fixture
def scripted(monkeypatch):
    """A model that solves every problem but the last."""

    def write_answers(self, prompts, **_):
        return [f"    return {prompts.index(prompt)}\n" for prompt in prompts[:-1]] + ["    return None\n"]

    monkeypatch.setattr(TorchBackend, "generate", write_answers)


def test_a_benchmark_beside_a_knowledge_set(farss, workshop, data, tmp_path, sandbox, scripted):
    out = tmp_path / "results"
    more = ("--data-dir", data, "--set", "eval.shots=0", "--out", out)
    status, text, err = farss("eval", "--model", workshop.model, "--tasks", "humaneval,capitals", *more)
    assert status == 0, err
    assert "benchmark/humaneval/pass@1" in text and "knowledge/capitals/hit" in text
    assert "sandbox: " in err and "keeps from" in err
    score = json.loads((out / "results.json").read_text())["scores"]["benchmark/humaneval/pass@1"]
    assert (score["value"], score["n"]) == (pytest.approx(2 / 3), 3)
    samples = json.loads((out / "benchmark-samples.json").read_text())["humaneval"]
    assert [sample["right"]["passed"] for sample in samples] == [True, True, False]
    assert samples[-1]["words"] == "    return None\n" and samples[-1]["status"] == "failed"


def test_a_limit_is_of_rows(farss, workshop, data, tmp_path, sandbox, scripted):
    more = ("--data-dir", data, "--task-rows", 2, "--out", tmp_path / "results")
    status, text, err = farss("eval", "--model", workshop.model, "--tasks", "humaneval", "--json", *more)
    assert status == 0, err
    assert json.loads(text)["scores"]["benchmark/humaneval/pass@1"] == {"value": 0.5, "stderr": 0.5, "n": 2}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("mbpp", "mbpp/test.jsonl.gz"),
        ("humanevil", "did you mean `humaneval`"),
        ("piqa", "did you mean `lm-eval:piqa`"),
        ("lm-eval:piga", "not known here"),
        ("nothing_like_it", "the data set was not found"),
        ("capitals,capitals", "a name comes twice"),
        ("gsm8k,word_problems", "at most one task"),
        ("glue/cola", "farss glue --tasks cola"),
    ],
)
def test_what_cannot_be_run_is_said_before_the_model_is_loaded(
    names, message, farss, workshop, data, tmp_path, monkeypatch
):
    monkeypatch.setattr("farss.experiment.materials.load_model", lambda *_: pytest.fail("the model was loaded"))
    more = ("--data-dir", data, "--out", tmp_path / "results")
    status, _, err = farss("eval", "--model", workshop.model, "--tasks", names, *more)
    assert status == 2 and message in err
    assert not (tmp_path / "results").exists()


def test_benchmarks_need_a_data_directory(farss, workshop, tmp_path):
    status, _, err = farss("eval", "--model", workshop.model, "--tasks", "humaneval", "--out", tmp_path / "results")
    assert status == 2 and "benchmarks take their rows from a data directory" in err


def test_without_a_sandbox_nothing_is_loaded(farss, workshop, data, tmp_path, monkeypatch):
    found = probe()
    weak = Protections(found.arrangement, found.holds - {"network"}, {"network": "taken away by the test"})
    monkeypatch.setattr("farss.evaluation.benchmarks.code.probe", lambda: weak)
    monkeypatch.setattr("farss.experiment.materials.load_model", lambda *_: pytest.fail("the model was loaded"))
    more = ("--data-dir", data, "--out", tmp_path / "results")
    status, _, err = farss("eval", "--model", workshop.model, "--tasks", "humaneval", *more)
    assert status == 2 and ("cannot keep a model's code" in err or "no sandbox" in err)


def test_a_training_task_keeps_its_meaning(monkeypatch):
    monkeypatch.setitem(own(), "gsm8k", CODE[0])
    requested = Requested.of(("gsm8k", "humaneval", "facts", "lm-eval:gsm8k"))
    assert requested == Requested(("facts",), ("gsm8k",), ("humaneval",), ("gsm8k",))


def test_an_unknown_benchmark_is_named(tmp_path):
    with pytest.raises(ConfigError, match="a benchmark is not known"):
        check_files(["humaneval", "apps"], tmp_path)
