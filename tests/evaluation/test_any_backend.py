"""Every benchmark and task of lm-eval, asked through vLLM's interface: the answers and scores are PyTorch's."""

from __future__ import annotations

import functools
import gzip
import importlib.util
import itertools
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from farss.errors import ConfigError, SandboxError
from farss.evaluation.backends import TorchBackend
from farss.evaluation.benchmarks.base import BenchmarkRun
from farss.evaluation.benchmarks.registry import get_benchmark
from farss.evaluation.harness import run_tasks
from farss.evaluation.harness_model import BackendModel
from farss.evaluation.vllm_backend import VllmBackend
from farss.sandbox import probe, require

_SPEC = importlib.util.spec_from_file_location("vllm_stub", Path(__file__).with_name("vllm_stub.py"))
vllm_stub = importlib.util.module_from_spec(_SPEC)
sys.modules["vllm_stub"] = vllm_stub  # its dataclasses look their module up
_SPEC.loader.exec_module(vllm_stub)

LITTLE = {"max_new_tokens": 12}
"""Tokens of an answer here: the stub computes every token from the start of its text."""


def write(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(file, "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)


def choices(first, count):
    return [
        {
            "question": f"What comes after {n}?",
            "choices": {"text": [str(n + step) for step in (1, 2, 3, 4)], "label": list("ABCD")},
            "answerKey": "ABCD"[n % 4],
        }
        for n in range(first, first + count)
    ]


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "data"
    program = {"prompt": 'def f():\n    """One."""\n', "entry_point": "f", "canonical_solution": "    return 1\n"}
    write(folder / "humaneval/test.jsonl.gz", [program | {"task_id": "a", "test": "def check(f): assert f() == 1\n"}])
    halves = [{"problem": f"Halve {n}.", "answer": "1", "level": n, "subject": "x"} for n in (1, 2)]
    write(folder / "math/test_500.jsonl.gz", [row | {"unique_id": f"a/{row['level']}"} for row in halves])
    write(folder / "gsm8k/test.jsonl.gz", [{"question": "1 + 2?", "answer": "1+2=3\n#### 3"}])
    asked = [
        {"instruction": f"Is {n} even?\n\nAnswer format: true/false", "answer": answer}
        for n, answer in ((2, "true"), (3, "false"))
    ]
    write(folder / "commonsense/boolq/test.jsonl.gz", asked)
    write(folder / "arc_easy/train.jsonl.gz", choices(50, 3))
    write(folder / "arc_easy/test.jsonl.gz", choices(0, 5))
    lines = [" = One = \r", "some words here", "", " == Part == ", "more words", " = Two = ", "other words"]
    write(folder / "wikitext2/test_raw.jsonl.gz", [{"text": line} for line in lines])
    return folder


def briefly(self, texts, *, whole, **settings):
    return whole(self, texts, **(settings | LITTLE))


@pytest.fixture
def both(monkeypatch, tiny_llama, tiny_tokenizer):
    """The same model behind PyTorch and behind vLLM's interface, writing little."""
    for backend, verb in itertools.product((TorchBackend, VllmBackend), ("generate", "generate_after")):
        monkeypatch.setattr(backend, verb, functools.partialmethod(briefly, whole=getattr(backend, verb)))
    vllm_stub.install(monkeypatch, tiny_llama, tiny_tokenizer, [])
    return TorchBackend(tiny_llama, tiny_tokenizer), VllmBackend("folder", dtype="float32")


@pytest.mark.parametrize("name", ["humaneval", "math", "gsm8k_rules", "commonsense_boolq"])
def test_a_benchmark(name, both, data):
    pytest.importorskip("math_verify")
    if name == "humaneval":
        try:
            require(probe())
        except SandboxError as error:
            pytest.skip(f"no sandbox here: {error}")
    benchmark = get_benchmark(name)
    plain, served = (benchmark.run(BenchmarkRun(backend, data, None)) for backend in both)
    assert served.scores == plain.scores
    assert len(plain.samples) > 0 and any(sample.words for sample in plain.samples)
    without_times = [[(s.id, s.prompt, s.words, s.right, s.group) for s in found.samples] for found in (plain, served)]
    assert without_times[0] == without_times[1]
    for one, other in zip(benchmark.task_samples(plain), benchmark.task_samples(served), strict=True):
        assert one == other and one.loss is None and one.correct is not None


@pytest.mark.parametrize("task", ["arc_easy", "wikitext"])
def test_a_task_of_lm_eval(task, both, data):
    pytest.importorskip("lm_eval")
    plain, served = (run_tasks(backend, [task], data_dir=data) for backend in both)
    assert plain.scores[task].keys() == served.scores[task].keys()
    for metric, score in plain.scores[task].items():
        assert served.scores[task][metric]["value"] == pytest.approx(score["value"], rel=1e-5), metric
    if task == "arc_easy":
        assert served.task_samples() == plain.task_samples()
        assert [one.correct for one in plain.task_samples()] == [s["acc"] == 1 for s in plain.samples[task]]
    else:
        with pytest.raises(ConfigError, match="not right or wrong"):
            served.task_samples()


def test_ifeval(both, data, shared_data, punkt_tab):
    for package in ("lm_eval", "langdetect", "immutabledict"):
        pytest.importorskip(package)
    shutil.copytree(punkt_tab / "english", data / "nltk_data" / "tokenizers" / "punkt_tab" / "english")
    (data / "ifeval").mkdir()
    shutil.copy(shared_data / "ifeval" / "test.jsonl.gz", data / "ifeval" / "test.jsonl.gz")
    requests = [SimpleNamespace(args=(f"Say {n}.", {"until": [], "max_gen_toks": 1280})) for n in range(3)]
    plain, served = (BackendModel(backend, 2).generate_until(requests) for backend in both)
    assert plain == served and all(plain)
    answers = [run_tasks(backend, ["ifeval"], data_dir=data, limit=2, **LITTLE).task_samples() for backend in both]
    assert answers[0] == answers[1] and len(answers[1]) == 2
    assert all(answer.correct in (True, False) for answer in answers[1])
