"""The task asked of a model: likelihood of the reference responses, and final answers in the model's own words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from farss.errors import DataError
from farss.evaluation.answers import same_final_answer
from farss.evaluation.backends import Backend
from farss.evaluation.records import Progress, TaskSample
from farss.evaluation.window import asking
from farss.model.calibration import Example

STOP = ("Question:", "USER:", "ASSISTANT:", "Instruction:", "Response:")
"""Where a response ends besides the end-of-sequence token: MetaMath's stop words, the start of another exercise."""
RESPONSE_BATCH = 64
"""Responses are written this many at a time."""


@dataclass(frozen=True)
class TaskSet:
    """Held-out rows of one task, all lists in the same order.

    Attributes:
        name: of the task.
        examples: prompt and reference response as token ids.
        prompts: the prompt texts, kept in the samples; the model reads the examples' ids.
        golds: the final answer of each row; None for rows without one, which are then not answered in words.
        rows: which rows these are and what became of others, JSON-ready.
        stop: texts that end a response, as the rows' template writes them.

    Raises:
        DataError: if the lists differ in length.
    """

    name: str
    examples: Sequence[Example]
    prompts: Sequence[str]
    golds: Sequence[str | None]
    rows: Mapping[str, Any] = field(default_factory=dict)
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        sizes = (len(self.examples), len(self.prompts), len(self.golds))
        if len(set(sizes)) > 1:
            raise DataError(
                "examples, prompts and final answers of a task do not belong together",
                where=self.name,
                expected="equally long lists",
                got=sizes,
                do="raise max_length if rows were left out as too long",
            )


def measure_task(
    backend: Backend,
    task: TaskSet,
    *,
    generate_rows: int,
    max_new_tokens: int,
    batch_tokens: int = 8192,
    progress: Progress | None = None,
) -> list[TaskSample]:
    """Loss of every reference response, and the model's own response to the first rows.

    A response is right if what follows its last "The answer is:" equals the reference's final answer.

    Args:
        backend: the model.
        task: held-out rows.
        generate_rows: how many of the first rows the model answers in words; 0 for none.
        max_new_tokens: most tokens of a response in words.
        batch_tokens: most tokens of a batch.
        progress: called with (responses scored or written, of how many).

    Returns:
        One sample per row, in order; ids are the row numbers.

    Raises:
        DataError: if the task has no rows.
    """
    if not task.examples:
        raise DataError("the task has no held-out rows", where=task.name)
    answered = [row for row, gold in enumerate(task.golds[:generate_rows]) if gold is not None]
    total = len(task.examples) + len(answered)
    with asking(task.name):
        losses = backend.response_losses(
            task.examples,
            batch_tokens=batch_tokens,
            progress=progress and (lambda done, _: progress(done, total)),
        )
        texts = backend.generate_after(
            [task.examples[row].before_answer for row in answered],
            max_new_tokens=max_new_tokens,
            stop=(*STOP, *task.stop),
            batch_size=RESPONSE_BATCH,
            progress=progress and (lambda done, _: progress(len(losses) + done, total)),
        )
    words = dict(zip(answered, texts, strict=True))
    return [
        TaskSample(
            task=task.name,
            id=str(row),
            prompt=prompt,
            loss=loss,
            tokens=tokens,
            words=words.get(row),
            correct=same_final_answer(words[row], str(task.golds[row])) if row in words else None,
        )
        for row, ((loss, tokens), prompt) in enumerate(zip(losses, task.prompts, strict=True))
    ]
