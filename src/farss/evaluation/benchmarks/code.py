"""HumanEval and MBPP by name: greedy completions run in the sandbox, the share of problems solved at the first try."""

from __future__ import annotations

import functools
import os

from farss.evaluation.benchmarks.base import Benchmark, BenchmarkResult, BenchmarkRun, Sample
from farss.evaluation.code import CodeSample, code_scores, load_code_problems, measure_code
from farss.sandbox import probe, require

MAX_NEW_TOKENS = 512
"""Most tokens of a completion; the reference solutions are far shorter."""
PASSED = "passed"


def check_sandbox() -> None:
    """Check, before a model is loaded, that this system can keep a model's code in its place.

    Raises:
        SandboxError: if it cannot; it names what does not hold.
    """
    require(probe())


def _measure(name: str, run: BenchmarkRun) -> BenchmarkResult:
    check_sandbox()
    problems = load_code_problems(name, data_dir=run.data_dir, limit=run.limit)
    samples = measure_code(
        run.backend,
        problems,
        max_new_tokens=MAX_NEW_TOKENS,
        workers=os.cpu_count() or 1,
        announce=run.announce,
        progress=run.progress,
    )
    unjudged = sum(sample.unjudged is not None for sample in samples)
    if unjudged and run.announce is not None:
        run.announce(f"{unjudged} programs could not be judged (named in the samples): counted as not solved")
    scores = code_scores(samples)
    return BenchmarkResult(
        {key.removeprefix(f"{name}/"): {**score} for key, score in scores.items()},
        [_sample(problem.prompt, sample) for problem, sample in zip(problems, samples, strict=True)],
    )


def _sample(prompt: str, found: CodeSample) -> Sample:
    details = {"status": found.status, "error": found.error, "seconds": found.seconds, "unjudged": found.unjudged}
    return Sample(found.id, prompt, found.completion, {PASSED: found.passed}, details=details)


BENCHMARKS = (
    Benchmark(
        "humaneval",
        "HumanEval, Python functions from their docstrings, run in the sandbox (pass@1)",
        ("humaneval/test",),
        functools.partial(_measure, "humaneval"),
        rule=PASSED,
        check=check_sandbox,
    ),
    Benchmark(
        "mbpp",
        "MBPP, short Python programs, three worked examples, run in the sandbox (pass@1)",
        ("mbpp/test", "mbpp/prompt"),
        functools.partial(_measure, "mbpp"),
        rule=PASSED,
        check=check_sandbox,
    ),
)
