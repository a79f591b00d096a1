"""MATH and GSM8K as benchmarks: what is asked, when writing stops, and how answers are judged."""

from __future__ import annotations

import gzip
import json

import pytest

from farss.datasets.formats import gsm8k_solution
from farss.datasets.resolve import load_rows
from farss.errors import ConfigError, DataError
from farss.evaluation.backends import TorchBackend
from farss.evaluation.benchmarks.base import BenchmarkRun
from farss.evaluation.benchmarks.mathematics import BENCHMARKS, GSM8K_TOKENS, MATH_TOKENS, ask_gsm8k, ask_math

MATH_ROWS = [
    {"problem": "Halve 1.", "answer": "\\frac{1}{2}", "level": 1, "subject": "Algebra", "unique_id": "a/1"},
    {"problem": "Halve 2.", "answer": "1", "level": 2, "subject": "Algebra", "unique_id": "a/2"},
    {"problem": "Halve 3.", "answer": "\\frac{3}{2}", "level": 5, "subject": "Geometry", "unique_id": "g/1"},
]
GSM8K_ROWS = [{"question": "1000 + 200?", "answer": "1000+200=<<1000+200=1200>>1200\n#### 1,200"}]


@pytest.fixture
def data_dir(tmp_path):
    for stem, rows in (("math/test_500", MATH_ROWS), ("gsm8k/test", GSM8K_ROWS)):
        file = tmp_path / f"{stem}.jsonl.gz"
        file.parent.mkdir()
        with gzip.open(file, "wt", encoding="utf-8") as out:
            out.writelines(json.dumps(row) + "\n" for row in rows)
    return tmp_path


@pytest.fixture
def run(tiny_llama, tiny_tokenizer, data_dir):
    pytest.importorskip("math_verify")
    return BenchmarkRun(TorchBackend(tiny_llama, tiny_tokenizer), data_dir, None)


def answering(monkeypatch, answers: list[str]) -> dict:
    """Let the model answer so; what it was asked is noted."""
    asked = {}

    def generate(self, prompts, **options):
        asked.update(options, prompts=prompts)
        return answers[: len(prompts)]

    monkeypatch.setattr(TorchBackend, "generate", generate)
    return asked


def test_math_is_judged_by_both_rules(run, monkeypatch):
    answers = ["Easy. The answer is: \\dfrac12", "So it is $\\boxed{1}$.", "The answer is: 1.5"]
    asked = answering(monkeypatch, answers)
    result = ask_math(run)
    assert result.scores["accuracy/published"]["value"] == pytest.approx(1 / 3)
    assert result.scores["accuracy/math-verify"] == {"value": 1.0, "stderr": 0.0, "n": 3}
    assert [s.right["published"] for s in result.samples] == [True, False, False]
    assert [(s.id, s.details["level"], s.group) for s in result.samples][2] == ("g/1", 5, "Geometry")
    assert [s.words for s in result.samples] == answers
    assert asked["max_new_tokens"] == MATH_TOKENS and "Instruction:" in asked["stop"]
    json.dumps([sample.to_mapping() for sample in result.samples])


def test_gsm8k_is_judged_by_both_rules(run, monkeypatch):
    asked = answering(monkeypatch, ["The answer is: $1,200."])
    result = ask_gsm8k(run)
    assert {metric: score["value"] for metric, score in result.scores.items()} == {
        "accuracy/published": 1.0,
        "accuracy/math-verify": 1.0,
    }
    assert asked["max_new_tokens"] == GSM8K_TOKENS
    (prompt,) = asked["prompts"]
    assert "### Instruction:\n1000 + 200?\n\n### Response:" in prompt and prompt.endswith("think step by step.")


def test_a_model_is_asked_and_the_limit_kept(run):
    seen = []
    limited = BenchmarkRun(run.backend, run.data_dir, 2, progress=lambda *done: seen.append(done))
    result = ask_math(limited, max_new_tokens=4)
    assert [sample.id for sample in result.samples] == ["a/1", "a/2"]
    assert all(len(sample.words) <= 4 for sample in result.samples)
    assert all(score["n"] == 2 for score in result.scores.values())
    assert seen[-1] == (2, 2)


def test_a_row_without_a_field_is_named(run):
    with gzip.open(run.data_dir / "math/test_500.jsonl.gz", "wt", encoding="utf-8") as out:
        out.write(json.dumps({"problem": "?", "unique_id": "x"}) + "\n")
    with pytest.raises(DataError, match=r"lacks a text field[\s\S]*math/test_500, row 1"):
        ask_math(run)
    with gzip.open(run.data_dir / "gsm8k/test.jsonl.gz", "wt", encoding="utf-8") as out:
        out.write(json.dumps({"question": "?", "answer": "no mark"}) + "\n")
    with pytest.raises(DataError, match="no final answer"):
        ask_gsm8k(run)


def test_the_package_is_asked_for_before_anything_is_written(run, tmp_path, monkeypatch):
    (tmp_path / "math_verify.py").write_text("raise ImportError('no such package')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    asked = answering(monkeypatch, [])
    with pytest.raises(ConfigError, match="needs the package math-verify"):
        ask_math(run)
    assert asked == {}


def test_the_files_are_those_that_are_read(shared_data):
    assert [benchmark.name for benchmark in BENCHMARKS] == ["math", "gsm8k_rules"]
    for benchmark in BENCHMARKS:
        for stem in benchmark.files:
            assert (shared_data / f"{stem}.jsonl.gz").is_file()


def test_the_reference_solutions_are_right(shared_data, tiny_llama, tiny_tokenizer, monkeypatch):
    pytest.importorskip("math_verify")
    run = BenchmarkRun(TorchBackend(tiny_llama, tiny_tokenizer), shared_data, 40)
    rows = load_rows("gsm8k", "test", data_dir=shared_data)
    solutions = [gsm8k_solution(row["answer"]) for row in rows]
    answering(monkeypatch, solutions)
    assert all(score["value"] == 1.0 for score in ask_gsm8k(run).scores.values())
    problems = load_rows("math", "test_500", data_dir=shared_data)
    answering(monkeypatch, [f"{row['solution']} The answer is: {row['answer']}" for row in problems])
    assert all(score["value"] == 1.0 for score in ask_math(run).scores.values())
