"""What was measured: one record per knowledge question and per task row, saved as gzip-compressed JSON lines."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from farss.errors import DataError, StorageError
from farss.reading import Document
from farss.storage import write_atomically

"""Of the text of one file of samples, where thousands of answers take a few million."""
MOST_SAID = 200
SAMPLES_FILE = Document(
    "record of samples",
    StorageError,
    most_bytes=256 << 20,
    damaged="delete the folder it stands in, and give the same command again: it is measured anew",
)
RANGES = {"log_prob": (-1e5, 1e-3), "loss": (-1e-3, 1e9), "tokens": (1, 1e9)}
"""What can have been measured; a probability of 1 may come out above it by rounding."""

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
        loss: negative log probability of the reference response, in nats, summed over its tokens; None where the
            likelihood of a response was not asked for.
        tokens: number of tokens of the reference response, its end-of-sequence token included; None with `loss`.
        words: what the model wrote; None if it was not asked to.
        correct: the answer is right, by its words where there are some; None if it was not asked for.
    """

    task: str
    id: str
    prompt: str
    loss: float | None
    tokens: int | None
    words: str | None = None
    correct: bool | None = None


@dataclass(frozen=True)
class Measurement:
    """All samples of one model."""

    knowledge: list[KnowledgeSample] = field(default_factory=list)
    task: list[TaskSample] = field(default_factory=list)

    @property
    def task_loss(self) -> float:
        """Nats per response token over all task rows whose likelihood was measured.

        Raises:
            DataError: if there are none.
        """
        tokens = sum(sample.tokens or 0 for sample in self.task)
        if not tokens:
            raise DataError("no task was measured, so there is no task loss")
        return sum(sample.loss or 0.0 for sample in self.task) / tokens

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
            StorageError: if the file is missing, cut short, far too large or not a measurement: a field is missing, of
                another type, or a number that cannot have been measured. The line is named.
        """
        # A model's words may hold characters that `splitlines` takes for line ends, such as U+2028.
        lines = enumerate(SAMPLES_FILE.read_packed(path).split("\n"), start=1)
        found = [_sample(line, f"{path}, line {number}") for number, line in lines if line]
        knowledge = [sample for sample in found if isinstance(sample, KnowledgeSample)]
        task = [sample for sample in found if isinstance(sample, TaskSample)]
        _require_once([*map(question_key, knowledge)], path)
        _require_once([*map(row_key, task)], path)
        return cls(knowledge, task)


KINDS: dict[str, type[KnowledgeSample] | type[TaskSample]] = {"knowledge": KnowledgeSample, "task": TaskSample}


def question_key(sample: KnowledgeSample) -> tuple[str, str]:
    """What identifies a question across models: its set and id."""
    return (sample.set, sample.id)


def row_key(sample: TaskSample) -> tuple[str, str]:
    """What identifies a task row across models: its task and id."""
    return (sample.task, sample.id)


def _sample(line: str, where: str) -> KnowledgeSample | TaskSample:
    record = SAMPLES_FILE.parse_json(line, where)
    kind = record.pop("kind", None) if isinstance(record, dict) else None
    if kind not in KINDS:
        raise StorageError("a line is no sample", where=where, expected=f"kind: {' | '.join(KINDS)}", got=repr(kind))
    sample = KINDS[kind]
    fields = {field.name: field for field in dataclasses.fields(sample)}
    needed = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
    if not needed <= record.keys() <= fields.keys():
        odd = sorted((needed - record.keys()) | (record.keys() - fields.keys()))
        raise StorageError("a sample has missing or unknown fields", where=where, got=", ".join(odd)[:MOST_SAID])
    for name, value in record.items():
        if not _fits(value, str(fields[name].type)) or not _possible(name, value):
            expected = " to ".join(map(str, RANGES[name])) if name in RANGES else fields[name].type
            raise StorageError(
                f"a sample's `{name}` cannot be", where=where, expected=expected, got=repr(value)[:MOST_SAID]
            )
    return sample(**record)


def _possible(name: str, value: Any) -> bool:
    """Whether a value of the right type can have been measured."""
    low, high = RANGES.get(name, (value, value))
    return value is None or low <= value <= high


def _fits(value: object, declared: str) -> bool:
    """Whether a value of JSON is of a declared type of the samples; a whole number is a float too."""
    kind, _, optional = declared.partition(" | ")
    if value is None:
        return optional == "None"
    if kind in ("int", "float"):
        return isinstance(value, int | float if kind == "float" else int) and not isinstance(value, bool)
    return isinstance(value, bool if kind == "bool" else str)


def _require_once(keys: list[tuple[str, str]], path: str | Path) -> None:
    twice = next((key for key, count in Counter(keys).items() if count > 1), None)
    if twice is not None:
        raise StorageError("a question is answered twice in one file of samples", where=path, got=" ".join(twice))
