"""What a benchmark is: a name, the files it reads, and a function from a model to scores and samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from farss.evaluation.backends import Backend
from farss.evaluation.records import Progress, TaskSample


@dataclass(frozen=True)
class BenchmarkRun:
    """What a benchmark is given.

    Attributes:
        backend: the model that is asked.
        data_dir: folder laid out as `NAME/SPLIT.jsonl.gz`.
        limit: at most this many rows; None for all.
        seed: of whatever a benchmark draws.
        progress: called with (rows done, rows in all).
        announce: called with a line for people, now and then.
    """

    backend: Backend
    data_dir: Path
    limit: int | None
    seed: int = 0
    progress: Progress | None = None
    announce: Callable[[str], object] | None = None


@dataclass(frozen=True)
class Sample:
    """One row of a benchmark as one model answered it.

    Attributes:
        id: of the row, unique in its benchmark.
        prompt: the question, without what all rows share.
        words: what the model wrote.
        right: rule of checking -> whether the answer is right by it.
        group: what kind of row it is (its subject, say), where the benchmark tells.
        details: what else is worth keeping, JSON-ready.
    """

    id: str
    prompt: str
    words: str
    right: Mapping[str, bool]
    group: str | None = None
    details: Mapping[str, object] = field(default_factory=dict)

    def to_mapping(self) -> dict[str, object]:
        """As files hold it, the details beside the rest."""
        own = {"id": self.id, "prompt": self.prompt, "words": self.words, "right": dict(self.right)}
        return {**own, "group": self.group, **self.details}


@dataclass(frozen=True)
class BenchmarkResult:
    """What a benchmark found.

    Attributes:
        scores: metric, without the benchmark's name -> {"value", "stderr", "n"}.
        samples: one per row asked.
    """

    scores: dict[str, dict[str, float | int | None]]
    samples: list[Sample]


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: what `--tasks` takes: small letters, digits, `-` and `_`.
        summary: one line of `farss tasks`.
        files: `NAME/SPLIT` of every file it reads from the data directory.
        run: asks the model.
        rule: by which rule of its samples an answer counts where the benchmark is the task of a comparison.
        check: raises before a model is loaded if something that it needs is missing, such as the sandbox.
    """

    name: str
    summary: str
    files: tuple[str, ...]
    run: Callable[[BenchmarkRun], BenchmarkResult]
    rule: str
    check: Callable[[], object] | None = None

    def task_samples(self, result: BenchmarkResult) -> list[TaskSample]:
        """The answers as those of a task, right by `rule`; without reference responses they have no likelihood."""
        return [
            TaskSample(self.name, one.id, one.prompt, None, None, one.words, one.right[self.rule])
            for one in result.samples
        ]


def accuracy(answers: Sequence[bool]) -> dict[str, float | int | None]:
    """Share of right answers with its binomial standard error."""
    value = sum(answers) / len(answers)
    return {"value": value, "stderr": math.sqrt(value * (1 - value) / len(answers)), "n": len(answers)}
