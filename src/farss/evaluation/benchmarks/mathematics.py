"""MATH and GSM8K in the published way: zero-shot, greedy, the final answer checked by both rules.

The paper writes up to 1024 tokens per GSM8K answer and 2048 per MATH answer; here half of that, which reference
solutions but for the longest stay below. `ask_gsm8k` and `ask_math` take any other number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from farss.datasets.files import read_rows
from farss.datasets.formats import final_answer
from farss.errors import DataError
from farss.evaluation.benchmarks.base import Benchmark, BenchmarkResult, BenchmarkRun, Sample, accuracy
from farss.evaluation.mathematics import (
    MATH_VERIFY,
    PROMPT,
    PUBLISHED,
    RULES,
    published_answer,
    published_equal,
    published_number_equal,
)
from farss.evaluation.task import STOP
from farss.evaluation.verifier import MathVerify

GSM8K_FILE = "gsm8k/test"
MATH_FILE = "math/test_500"
GSM8K_TOKENS = 512
MATH_TOKENS = 1024
BATCH = 32
"""Responses written at a time; long ones need much memory for keys and values."""


@dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
        id: unique in its benchmark.
        question: as the data set has it.
        gold: the final answer alone.
        group: its subject, where it has one.
        kept: what else the sample keeps (its level).
    """

    id: str
    question: str
    gold: str
    group: str | None = None
    kept: Mapping[str, object] = field(default_factory=dict)


def ask_gsm8k(run: BenchmarkRun, *, max_new_tokens: int = GSM8K_TOKENS) -> BenchmarkResult:
    """GSM8K's test problems; the published rule compares the first number after the phrase with the reference.

    Raises:
        DataError: if the file is missing or a row lacks what is needed.
        ConfigError: if math-verify is not installed; said before anything is written.
    """
    rows = _rows(run, GSM8K_FILE)
    problems = [
        Problem(str(number), _text(row, "question", where), _gsm8k_gold(row, where))
        for number, (where, row) in enumerate(rows)
    ]
    return _ask(run, problems, max_new_tokens, published_number_equal)


def ask_math(run: BenchmarkRun, *, max_new_tokens: int = MATH_TOKENS) -> BenchmarkResult:
    """MATH-500; the samples keep each problem's level and subject.

    Raises:
        DataError: if the file is missing or a row lacks what is needed.
        ConfigError: if math-verify is not installed; said before anything is written.
    """
    problems = [
        Problem(
            _text(row, "unique_id", where),
            _text(row, "problem", where),
            _text(row, "answer", where),
            None if row.get("subject") is None else str(row["subject"]),
            {"level": row.get("level")},
        )
        for where, row in _rows(run, MATH_FILE)
    ]
    return _ask(run, problems, max_new_tokens, _published_math)


def _published_math(text: str, gold: str) -> bool:
    answer = published_answer(text)
    return answer is not None and published_equal(answer, gold)


def _ask(
    run: BenchmarkRun, problems: Sequence[Problem], max_new_tokens: int, published: Callable[[str, str], bool]
) -> BenchmarkResult:
    with MathVerify() as verifier:
        texts = run.backend.generate(
            [PROMPT.format(problem.question) for problem in problems],
            max_new_tokens=max_new_tokens,
            stop=STOP,
            batch_size=BATCH,
            progress=run.progress,
        )
        samples = [
            Sample(
                problem.id,
                problem.question,
                text,
                {PUBLISHED: published(text, problem.gold), MATH_VERIFY: verifier.right(text, problem.gold)},
                problem.group,
                {"gold": problem.gold, **problem.kept},
            )
            for problem, text in zip(problems, texts, strict=True)
        ]
        if verifier.timeouts and run.announce is not None:
            count = verifier.timeouts
            run.announce(
                f"{count} answers could not be compared within the limits of time and memory: counted as wrong"
            )
    scores = {f"accuracy/{rule}": accuracy([sample.right[rule] for sample in samples]) for rule in RULES}
    return BenchmarkResult(scores, samples)


def _rows(run: BenchmarkRun, file: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The rows that are asked, each with its place for messages."""
    rows = read_rows(run.data_dir / f"{file}.jsonl.gz")[: run.limit]
    return [(f"{file}, row {number}", row) for number, row in enumerate(rows, start=1)]


def _gsm8k_gold(row: Mapping[str, Any], where: str) -> str:
    gold = final_answer(_text(row, "answer", where))
    if gold is None:
        raise DataError("a reference solution has no final answer", where=where)
    return gold


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise DataError("a problem lacks a text field", where=where, expected=name, got=", ".join(row))
    return value


BENCHMARKS: tuple[Benchmark, ...] = (
    Benchmark("math", "MATH-500, zero-shot, answers checked by two rules", (MATH_FILE,), ask_math, PUBLISHED),
    Benchmark("gsm8k_rules", "GSM8K, zero-shot, answers checked by two rules", (GSM8K_FILE,), ask_gsm8k, PUBLISHED),
)
