"""What a benchmark is: a name, the files it reads, and a function from a model to scores and samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from farss.evaluation.records import Progress


@dataclass(frozen=True)
class BenchmarkRun:
    """What a benchmark is given.

    Attributes:
        model: a causal language model, with or without a PEFT adapter; only read.
        tokenizer: its tokenizer.
        data_dir: folder laid out as `NAME/SPLIT.jsonl.gz`.
        limit: at most this many rows; None for all.
        seed: of whatever a benchmark draws.
        progress: called with (rows done, rows in all).
        announce: called with a line for people, now and then.
    """

    model: nn.Module
    tokenizer: Any
    data_dir: Path
    limit: int | None
    seed: int = 0
    progress: Progress | None = None
    announce: Callable[[str], object] | None = None


@dataclass(frozen=True)
class BenchmarkResult:
    """What a benchmark found.

    Attributes:
        scores: metric, without the benchmark's name -> {"value", "stderr", "n"}.
        samples: JSON-ready, one per row asked.
    """

    scores: dict[str, dict[str, float | int | None]]
    samples: list[dict[str, Any]]


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: what `--tasks` takes.
        summary: one line of `farss tasks`.
        files: `NAME/SPLIT` of every file it reads from the data directory.
        run: asks the model.
    """

    name: str
    summary: str
    files: tuple[str, ...]
    run: Callable[[BenchmarkRun], BenchmarkResult]


def accuracy(answers: Sequence[bool]) -> dict[str, float | int | None]:
    """Share of right answers with its binomial standard error."""
    value = sum(answers) / len(answers)
    return {"value": value, "stderr": math.sqrt(value * (1 - value) / len(answers)), "n": len(answers)}
