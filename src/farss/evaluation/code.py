"""HumanEval and MBPP: programs from a model's completions, run in the sandbox, and the share that passes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from farss.datasets.resolve import load_rows
from farss.errors import ConfigError, DataError
from farss.evaluation.backends import Backend
from farss.evaluation.completions import FENCE, asked_of_the_program, opening_fence, program_text
from farss.evaluation.records import Progress
from farss.sandbox import Examination, Limits, Protections, Status, run_programs

Row = Mapping[str, Any]

HUMANEVAL_STOP = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""Where a completion of a HumanEval function ends, as in Chen et al. 2021: the next thing at top level."""
MBPP_STOP = ("[DONE]",)
"""Where an MBPP solution ends, as in Austin et al. 2021."""
BATCH = 64
"""Completions written at a time."""
MBPP_SHOTS = (2, 3, 4)
"""The tasks that are worked examples in an MBPP prompt, as in the paper."""


@dataclass(frozen=True)
class CodeProblem:
    """One problem of a code benchmark.

    Attributes:
        task: name of the benchmark.
        id: of the problem, unique in it.
        prompt: what the model continues.
        before: program text before the completion.
        tests: statements that raise an exception unless the program is right.
        names: what the tests use of the program.
        preamble: what they use besides, from the benchmark itself.
        stop: texts at the first of which a completion is cut.
        reference: the benchmark's own solution, a completion that passes.
    """

    task: str
    id: str
    prompt: str
    before: str
    tests: str
    names: tuple[str, ...]
    preamble: str
    stop: tuple[str, ...]
    reference: str

    def program(self, completion: str) -> str:
        """The program that a completion makes, without the tests."""
        return f"{self.before}{program_text(completion, self.before, self.stop, self.names)}\n"

    @property
    def examination(self) -> Examination:
        """The tests, which run apart from the program."""
        return Examination(self.tests, self.names, self.preamble)


@dataclass(frozen=True)
class CodeSample:
    """One completion of one problem.

    Attributes:
        task: name of the benchmark.
        id: of the problem; several samples may have the same.
        completion: what the model wrote, before it is cut.
        status: how its program ended, see `Outcome`.
        error: the end of its standard error.
        seconds: how long it ran.
        unjudged: why the tests could not judge it, which counts as not solved; None where they did.
    """

    task: str
    id: str
    completion: str
    status: Status
    error: str
    seconds: float
    unjudged: str | None = None

    @property
    def passed(self) -> bool:
        """Whether it solved the problem."""
        return self.status == "passed"


def humaneval(rows: Sequence[Row]) -> list[CodeProblem]:
    """HumanEval's rows (task_id, prompt, entry_point, canonical_solution, test) as problems.

    Raises:
        DataError: if a row lacks a field.
    """
    return [
        CodeProblem(
            task="humaneval",
            id=_text(row, "task_id"),
            prompt=_text(row, "prompt"),
            before=_text(row, "prompt"),
            tests=f"{_text(row, 'test')}\n\ncheck({_text(row, 'entry_point')})",
            names=(_text(row, "entry_point"),),
            preamble=_text(row, "prompt"),
            stop=HUMANEVAL_STOP,
            reference=_text(row, "canonical_solution"),
        )
        for row in rows
    ]


def mbpp(rows: Sequence[Row], shots: Sequence[Row] = ()) -> list[CodeProblem]:
    """MBPP's rows (task_id, text, code, test_list, test_setup_code) as problems.

    The prompt is that of Austin et al. 2021. The setup code comes after the solution, whose classes it uses.

    Args:
        rows: the problems.
        shots: worked examples, in the same form.

    Raises:
        DataError: if a row lacks a field.
    """
    examples = "".join(f"{_mbpp_prompt(row)}{_text(row, 'code')}\n[DONE]\n\n" for row in shots)
    return [_mbpp_problem(row, examples) for row in rows]


def _mbpp_problem(row: Row, examples: str) -> CodeProblem:
    tests = "\n".join([_text(row, "test_setup_code"), *_tests(row)])
    names, imports = asked_of_the_program(tests, _text(row, "code"))
    return CodeProblem(
        task="mbpp",
        id=_text(row, "task_id"),
        prompt=examples + _mbpp_prompt(row),
        before="",
        tests=tests,
        names=names,
        preamble=imports,
        stop=MBPP_STOP,
        reference=_text(row, "code"),
    )


def load_code_problems(name: str, *, data_dir: str | Path, limit: int | None = None) -> list[CodeProblem]:
    """The test problems of a benchmark in the data directory.

    Args:
        name: "humaneval" or "mbpp" (with the paper's three worked examples in the prompt).
        data_dir: folder laid out as `NAME/SPLIT.jsonl.gz`.
        limit: at most this many, the first ones; None for all.

    Raises:
        ConfigError: if the name is neither.
        DataError: if the files are not there or a row lacks a field.
    """
    if name not in ("humaneval", "mbpp"):
        raise ConfigError("unknown code benchmark", expected="humaneval | mbpp", got=name)
    rows = load_rows(name, "test", data_dir=data_dir, limit=limit)
    if name == "humaneval":
        return humaneval(rows)
    by_id = {row["task_id"]: row for row in load_rows(name, "prompt", data_dir=data_dir)}
    missing = [number for number in MBPP_SHOTS if number not in by_id]
    if missing:
        raise DataError("the worked examples of MBPP are not there", where=f"{name}, split prompt", expected=missing)
    return mbpp(rows, [by_id[number] for number in MBPP_SHOTS])


def run_completions(
    problems: Sequence[CodeProblem],
    completions: Sequence[str],
    *,
    limits: Limits | None = None,
    workers: int = 1,
    protections: Protections | None = None,
    announce: Callable[[str], object] | None = None,
    progress: Progress | None = None,
) -> list[CodeSample]:
    """Run completions against their problems' tests: the program in one sandbox, its tests in another.

    A program gets arguments and gives plain data back; it can reach neither the tests nor their verdict.

    Args:
        problems: the problem of each completion; one may come several times.
        completions: as many texts.
        limits: what each program may use; None for the defaults.
        workers: how many programs run at a time.
        protections: see `run_programs`.
        announce: see `run_programs`.
        progress: called with (programs done, programs in all).

    Returns:
        One sample per completion, in order.

    Raises:
        DataError: if there are not as many completions as problems.
        SandboxError: if the system cannot keep the programs in their place.
    """
    if len(problems) != len(completions):
        raise DataError(
            "every completion needs its problem",
            expected=f"{len(problems)} completions",
            got=len(completions),
        )
    outcomes = run_programs(
        [problem.program(text) for problem, text in zip(problems, completions, strict=True)],
        limits,
        workers,
        protections=protections,
        announce=announce,
        progress=progress,
        examinations=[problem.examination for problem in problems],
    )
    return [
        CodeSample(problem.task, problem.id, text, outcome.status, outcome.stderr, outcome.seconds, outcome.unjudged)
        for problem, text, outcome in zip(problems, completions, outcomes, strict=True)
    ]


def measure_code(
    backend: Backend,
    problems: Sequence[CodeProblem],
    *,
    max_new_tokens: int = 512,
    limits: Limits | None = None,
    workers: int = 1,
    protections: Protections | None = None,
    announce: Callable[[str], object] | None = None,
    progress: Progress | None = None,
) -> list[CodeSample]:
    """The model's greedy completion of every problem, run against its tests.

    Args:
        backend: the model that is asked.
        problems: of one benchmark.
        max_new_tokens: most tokens of a completion.
        limits: see `run_completions`.
        workers: see `run_completions`.
        protections: see `run_completions`.
        announce: see `run_completions`.
        progress: called with (completions written, or programs run, of how many).

    Returns:
        One sample per problem, in order.

    Raises:
        DataError: if there are no problems, or they end in different ways.
        SandboxError: if the system cannot keep the programs in their place.
    """
    stops = {problem.stop for problem in problems}
    if len(stops) != 1:
        raise DataError("the problems must be of one benchmark", expected="one list of stop texts", got=len(stops))
    texts = backend.generate(
        [problem.prompt for problem in problems],
        max_new_tokens=max_new_tokens,
        stop=stops.pop(),
        batch_size=BATCH,
        progress=progress and (lambda done, total: progress(done, 2 * total)),
    )
    texts = _with_fenced(backend, problems, texts, max_new_tokens)
    return run_completions(
        problems,
        texts,
        limits=limits,
        workers=workers,
        protections=protections,
        announce=announce,
        progress=progress and (lambda done, total: progress(total + done, 2 * total)),
    )


def _with_fenced(
    backend: Backend, problems: Sequence[CodeProblem], texts: Sequence[str], max_new_tokens: int
) -> list[str]:
    """The completions, those that open a fence written on to its end: the stop texts are meant for code without one."""
    opened = {i: opening for i, text in enumerate(texts) if (opening := opening_fence(text)) is not None}
    if not opened:
        return list(texts)
    written = backend.generate(
        [f"{problems[i].prompt}{opening}\n" for i, opening in opened.items()],
        max_new_tokens=max_new_tokens,
        stop=(f"\n{FENCE}",),
        batch_size=BATCH,
    )
    finished = {i: f"{opened[i]}\n{text}\n{FENCE}\n" for i, text in zip(opened, written, strict=True)}
    return [finished.get(i, text) for i, text in enumerate(texts)]


def pass_at_k(tries: int, passed: int, k: int) -> float:
    """The chance that at least one of `k` completions passes: 1 - C(n-c, k) / C(n, k), Chen et al. 2021, Equation 1.

    Unbiased, unlike 1 - (1 - c/n)^k.

    Args:
        tries: n, completions of the problem.
        passed: c, those that passed.
        k: how many may be drawn, at most n.

    Raises:
        DataError: if not `0 <= passed <= tries` or not `1 <= k <= tries`.
    """
    if not (0 <= passed <= tries and 1 <= k <= tries):
        raise DataError(
            "pass@k is not defined for these numbers",
            expected="0 <= passed <= tries and 1 <= k <= tries",
            got=f"tries {tries}, passed {passed}, k {k}",
        )
    return 1.0 - math.comb(tries - passed, k) / math.comb(tries, k)


def code_scores(samples: Sequence[CodeSample], ks: Sequence[int] = (1,)) -> dict[str, dict[str, float | int]]:
    """The mean over problems of pass@k, per benchmark.

    Returns:
        {"TASK/pass@K": {"value", "stderr" (over problems; 0 for a single one), "n" (problems)}}.

    Raises:
        DataError: if a problem has fewer than `k` samples.
    """
    tries = Counter((sample.task, sample.id) for sample in samples)
    passed = Counter((sample.task, sample.id) for sample in samples if sample.passed)
    scores: dict[str, dict[str, float | int]] = {}
    for task in dict.fromkeys(sample.task for sample in samples):
        for k in ks:
            shares = np.array([pass_at_k(n, passed[key], k) for key, n in tries.items() if key[0] == task])
            spread = float(shares.std(ddof=1) / math.sqrt(len(shares))) if len(shares) > 1 else 0.0
            scores[f"{task}/pass@{k}"] = {"value": float(shares.mean()), "stderr": spread, "n": len(shares)}
    return scores


def _mbpp_prompt(row: Row) -> str:
    tests = "\n".join(_tests(row))
    return (
        f"You are an expert Python programmer, and here is your task: {_text(row, 'text')} "
        f"Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"
    )


def _text(row: Row, name: str) -> str:
    value = row.get(name)
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str):
        raise DataError("a row of a code benchmark lacks a field", expected=name, got=", ".join(row))
    return value


def _tests(row: Row) -> list[str]:
    tests = row.get("test_list")
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
        raise DataError("a row of a code benchmark has no tests", expected="test_list", got=", ".join(row))
    return tests
