"""What was measured: one record per knowledge question and per task row, saved as gzip-compressed JSON lines."""

from __future__ import annotations

import dataclasses
import gzip
import json
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from farss.errors import DataError, StorageError
from farss.storage import write_atomically

Progress = Callable[[int, int], None]
"""Called now and then by long measurements with how much is done, of how much."""


@dataclass(frozen=True)
class KnowledgeSample:
    """One model's answer to one knowledge question.

    Attributes:
        set: name of the knowledge set.
        id: of the question, unique in its set.
        question: the question as it was asked, without the few-shot prefix.
        gold: the answer whose likelihood is measured.
        log_prob: mean log probability per token of the gold answer, in nats.
        tokens: number of tokens of the gold answer.
        hit: the greedy path from the question spells the gold answer.
        choice: the gold answer has a higher `log_prob` than every distractor; None if there are none.
        words: what the model answered; None if it was not asked to.
        correct: `words` are one of the accepted answers; None if there are no words.
    """

    set: str
    id: str
    question: str
    gold: str
    log_prob: float
    tokens: int
    hit: bool
    choice: bool | None = None
    words: str | None = None
    correct: bool | None = None

    @property
    def right(self) -> bool:
        """Whether the question counts as answered: by words where there are some, else by the greedy path."""
        return self.hit if self.correct is None else self.correct


@dataclass(frozen=True)
class TaskSample:
    """One model's response to one held-out task row.

    Attributes:
        task: name of the task.
        id: of the row, unique in its task.
        prompt: the prompt text.
        loss: negative log probability of the reference response, in nats, summed over its tokens.
        tokens: number of tokens of the reference response, its end-of-sequence token included.
        words: what the model wrote; None if it was not asked to.
        correct: the final answer in `words` is the reference's; None if there are no words.
    """

    task: str
    id: str
    prompt: str
    loss: float
    tokens: int
    words: str | None = None
    correct: bool | None = None


@dataclass(frozen=True)
class Measurement:
    """All samples of one model."""

    knowledge: list[KnowledgeSample] = field(default_factory=list)
    task: list[TaskSample] = field(default_factory=list)

    @property
    def task_loss(self) -> float:
        """Nats per response token over all task rows.

        Raises:
            DataError: if no task was measured.
        """
        tokens = sum(sample.tokens for sample in self.task)
        if not tokens:
            raise DataError("no task was measured, so there is no task loss")
        return sum(sample.loss for sample in self.task) / tokens

    def restricted_to(self, others: Iterable[Measurement]) -> Measurement:
        """The samples whose questions and rows every one of `others` has too, in this measurement's order."""
        asked = [(set(map(question_key, o.knowledge)), set(map(row_key, o.task))) for o in others]
        return Measurement(
            [s for s in self.knowledge if all(question_key(s) in questions for questions, _ in asked)],
            [s for s in self.task if all(row_key(s) in rows for _, rows in asked)],
        )

    def save(self, path: str | Path) -> None:
        """Write one JSON object per sample to `path` (`.jsonl.gz`), atomically; equal samples give equal bytes.

        Raises:
            StorageError: if the file cannot be written.
        """
        lines = [{"kind": "knowledge", **dataclasses.asdict(s)} for s in self.knowledge]
        lines += [{"kind": "task", **dataclasses.asdict(s)} for s in self.task]
        text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
        packed = gzip.compress(text.encode("utf-8"), mtime=0)

        def write(file: Path) -> None:
            file.write_bytes(packed)

        write_atomically(path, write)

    @classmethod
    def load(cls, path: str | Path) -> Measurement:
        """The measurement that `save` wrote.

        Raises:
            StorageError: if the file is missing, cut short or not a measurement.
        """
        try:
            text = gzip.decompress(Path(path).read_bytes()).decode("utf-8")
            # A model's words may hold characters that `splitlines` takes for line ends, such as U+2028.
            records = [json.loads(line) for line in text.split("\n") if line]
            knowledge = [KnowledgeSample(**_fields(r)) for r in records if r["kind"] == "knowledge"]
            task = [TaskSample(**_fields(r)) for r in records if r["kind"] == "task"]
        except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
            raise StorageError("the samples cannot be read", where=path, got=str(error)) from error
        return cls(knowledge, task)


def question_key(sample: KnowledgeSample) -> tuple[str, str]:
    """What identifies a question across models: its set and id."""
    return (sample.set, sample.id)


def row_key(sample: TaskSample) -> tuple[str, str]:
    """What identifies a task row across models: its task and id."""
    return (sample.task, sample.id)


def _fields(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "kind"}
