"""HumanEval and MBPP: what a program is made of, what passes, and how often."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import math
import sys

import pytest

from farss.errors import ConfigError, DataError, SandboxError
from farss.evaluation.backends import TorchBackend
from farss.evaluation.code import (
    HUMANEVAL_STOP,
    MBPP_SHOTS,
    CodeSample,
    code_scores,
    humaneval,
    load_code_problems,
    mbpp,
    measure_code,
    pass_at_k,
    run_completions,
)
from farss.evaluation.completions import cut
from farss.sandbox import probe, require

FEW = 20
WORKERS = 1

ADD = {
    "task_id": "Toy/0",
    "prompt": 'def add(a, b):\n    """The sum."""\n',
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(-1, 1) == 0\n",
}
TWICE = {
    "task_id": 7,
    "text": "Write a function to double a number.",
    "code": "class Box:\r\n    def __init__(self, n): self.n = n\r\ndef twice(box):\r\n    return 2 * box.n",
    "test_list": ["assert twice(box) == 6", "assert twice(Box(0)) == 0"],
    "test_setup_code": "box = Box(3)",
}


@pytest.fixture(scope="module")
def sandbox():
    if sys.platform != "linux":
        pytest.skip("the sandbox needs Linux")
    found = probe()
    try:
        require(found)
    except SandboxError as error:
        pytest.skip(f"no sandbox here: {error}")
    return {"protections": found, "announce": lambda text: None, "workers": WORKERS}


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("    return 1\n\ndef other():\n", "    return 1\n"),
        ("    return 1\nprint(f())\nclass A:\n", "    return 1"),
        ("    def inner(): pass\n    # a comment\n    if a: pass\n", None),
        ("    return 1\n# comment", "    return 1"),
        ("", ""),
    ],
)
def test_a_completion_ends_where_top_level_begins(completion, expected):
    assert cut(completion, HUMANEVAL_STOP) == (completion if expected is None else expected)


@pytest.mark.parametrize(
    ("completion", "status"),
    [
        ("    return a + b\n", "passed"),
        ("    return a + b", "passed"),
        ("    return a + b\n\ndef add(a, b):\n    return 0\n", "passed"),  # cut before the second function
        ("    return a - b\n", "failed"),
        ("    return a +\n", "failed"),
        ("    raise SystemExit(0)\n", "failed"),
        ("    import os; os._exit(0)\n", "failed"),
        ("", "failed"),
    ],
)
def test_humaneval_toy(sandbox, completion, status):
    [sample] = run_completions(humaneval([ADD]), [completion], **sandbox)
    assert (sample.task, sample.id, sample.completion, sample.status) == ("humaneval", "Toy/0", completion, status)


def test_mbpp_toy(sandbox):
    problems = mbpp([TWICE]) * 3
    right = TWICE["code"]
    samples = run_completions(problems, [right, f"{right}\n[DONE]\n(not code)", right.replace("2 *", "3 *")], **sandbox)
    assert [sample.status for sample in samples] == ["passed", "passed", "failed"]
    assert "AssertionError" in samples[-1].error


def test_mbpp_prompt_is_that_of_the_paper():
    [problem] = mbpp([TWICE], shots=[ADD | TWICE | {"code": "SHOT"}])
    asked = (
        "You are an expert Python programmer, and here is your task: Write a function to double a number. Your code "
        "should pass these tests:\n\nassert twice(box) == 6\nassert twice(Box(0)) == 0\n[BEGIN]\n"
    )
    assert problem.prompt == f"{asked}SHOT\n[DONE]\n\n{asked}"


@pytest.mark.parametrize("tries", [1, 3, 6])
def test_pass_at_k_is_the_share_of_draws_with_a_pass(tries):
    for passed, k in itertools.product(range(tries + 1), range(1, tries + 1)):
        draws = list(itertools.combinations([True] * passed + [False] * (tries - passed), k))
        assert math.isclose(pass_at_k(tries, passed, k), sum(map(any, draws)) / len(draws), abs_tol=1e-12)


@pytest.mark.parametrize("numbers", [(5, 6, 1), (5, -1, 1), (5, 2, 0), (5, 2, 6), (0, 0, 1)])
def test_pass_at_k_of_impossible_numbers_is_refused(numbers):
    with pytest.raises(DataError, match="pass@k"):
        pass_at_k(*numbers)


def test_scores_are_means_over_problems():
    passes = {"a": [True, True], "b": [True, False], "c": [False, False, False]}
    samples = [
        CodeSample("humaneval", key, "", "passed" if good else "failed", "", 0.0)
        for key, tries in passes.items()
        for good in tries
    ]
    scores = code_scores([*samples, CodeSample("mbpp", "a", "", "timeout", "", 1.0)] * 2, ks=(1, 2))
    assert scores["humaneval/pass@1"]["value"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert scores["humaneval/pass@2"]["value"] == pytest.approx((1 + (1 - 1 / math.comb(4, 2)) + 0) / 3)
    assert scores["humaneval/pass@1"]["stderr"] == pytest.approx(0.5 / math.sqrt(3))
    assert scores["mbpp/pass@1"] == {"value": 0.0, "stderr": 0.0, "n": 1}
    with pytest.raises(DataError, match="pass@k"):
        code_scores(samples, ks=(3,))


@pytest.mark.parametrize("lost", ["task_id", "prompt", "entry_point", "canonical_solution", "test"])
def test_a_humaneval_row_that_lacks_a_field_is_refused(lost):
    with pytest.raises(DataError, match=f"(?s)lacks a field.*{lost}"):
        humaneval([{name: value for name, value in ADD.items() if name != lost}])


@pytest.mark.parametrize("tests", [None, [], "assert True", [1]])
def test_an_mbpp_row_without_tests_is_refused(tests):
    with pytest.raises(DataError, match="no tests"):
        mbpp([TWICE | {"test_list": tests}])


def test_completions_and_problems_must_match():
    with pytest.raises(DataError, match="every completion"):
        run_completions(humaneval([ADD]), [])


def test_an_unknown_benchmark_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="code benchmark"):
        load_code_problems("apps", data_dir=tmp_path)


def test_a_models_own_completions_are_run(sandbox, tiny_llama, tiny_tokenizer):
    seen = []
    problems = humaneval([ADD, ADD])
    samples = measure_code(
        TorchBackend(tiny_llama, tiny_tokenizer),
        problems,
        max_new_tokens=8,
        progress=lambda *done: seen.append(done),
        **sandbox,
    )
    assert [sample.status for sample in samples] == ["failed", "failed"]  # random weights write no Python
    assert samples[0].completion == samples[1].completion != ""
    assert seen[-1] == (4, 4) and seen == sorted(seen)


@pytest.mark.case("code in a fence is written to its end")
def test_a_completion_that_opens_a_fence_is_written_on_to_its_end(sandbox, monkeypatch, tiny_llama, tiny_tokenizer):
    asked = []

    def write(self, prompts, *, stop, **_):
        asked.append((list(prompts), stop))
        first = {"first": "```python", "second": "    return a + b\n"}
        if len(asked) == 1:
            return [first[prompt.partition(":")[0]] for prompt in prompts]
        return ["def add(a, b):\n    return a + b" for _ in prompts]

    monkeypatch.setattr(TorchBackend, "generate", write)
    [plain] = humaneval([ADD])
    problems = [dataclasses.replace(plain, prompt=f"{name}:") for name in ("first", "second")]
    samples = measure_code(TorchBackend(tiny_llama, tiny_tokenizer), problems, **sandbox)
    assert [sample.passed for sample in samples] == [True, True], samples
    assert asked[1] == (["first:```python\n"], ("\n```",))


def test_problems_of_two_benchmarks_are_refused(tiny_llama, tiny_tokenizer):
    with pytest.raises(DataError, match="one benchmark"):
        measure_code(TorchBackend(tiny_llama, tiny_tokenizer), [*humaneval([ADD]), *mbpp([TWICE])])


def test_the_benchmarks_have_all_their_problems(shared_data):
    assert len(load_code_problems("humaneval", data_dir=shared_data)) == 164
    problems = load_code_problems("mbpp", data_dir=shared_data)
    assert len(problems) == 500
    assert problems[0].prompt.count("[DONE]") == len(MBPP_SHOTS)


def returning_nothing(problem) -> str:
    """A solution whose functions exist, take anything and return None."""
    if problem.task == "humaneval":
        return "    pass\n"
    functions = [node.name for node in ast.parse(problem.reference).body if isinstance(node, ast.FunctionDef)]
    return "\n".join([problem.reference, *(f"def {name}(*given, **named): pass" for name in functions)])


def leaving_early(problem) -> str:
    return ("    " if problem.task == "humaneval" else "") + "import os; os._exit(0)\n"


def broken(problem) -> str:
    return f"{problem.reference}\n    )"


WRONG = (returning_nothing, leaving_early, broken)


def passed_share(problems, completions, sandbox) -> tuple[float, dict[str, tuple[str, str]]]:
    """The share that passed, and how the others ended."""
    samples = run_completions(problems, completions, **sandbox)
    [score] = code_scores(samples).values()
    return score["value"], {sample.id: (sample.status, sample.error[-300:]) for sample in samples if not sample.passed}


@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_the_first_reference_solutions_pass_and_wrong_ones_fail(name, shared_data, sandbox):
    problems = load_code_problems(name, data_dir=shared_data, limit=FEW)
    share, others = passed_share(problems, [problem.reference for problem in problems], sandbox)
    assert share == 1.0, others
    wrong = [make(problem) for make, problem in zip(itertools.cycle(WRONG), problems, strict=False)]
    share, others = passed_share(problems, wrong, sandbox)
    assert share == 0.0, sorted({problem.id for problem in problems} - others.keys())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_every_reference_solution_passes(name, shared_data, sandbox):
    problems = load_code_problems(name, data_dir=shared_data)
    share, others = passed_share(problems, [problem.reference for problem in problems], sandbox)
    assert share == 1.0, others


@pytest.mark.slow
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_no_wrong_solution_passes(name, wrong, shared_data, sandbox):
    problems = load_code_problems(name, data_dir=shared_data)
    samples = run_completions(problems, [wrong(problem) for problem in problems], **sandbox)
    assert [sample.id for sample in samples if sample.passed] == []


@pytest.mark.slow
def test_humaneval_takes_less_than_a_minute_on_two_cores(shared_data, sandbox):
    import time

    problems = load_code_problems("humaneval", data_dir=shared_data)
    began = time.monotonic()
    samples = run_completions(problems, [problem.reference for problem in problems], **(sandbox | {"workers": 2}))
    assert all(sample.passed for sample in samples)
    assert time.monotonic() - began < 60
