"""The GLUE tasks: which fields are read, what the labels mean, what is measured, and their rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from farss.datasets.resolve import load_rows
from farss.errors import ConfigError, DataError, did_you_mean

Metric = Literal["accuracy", "f1", "matthews", "pearson", "spearman"]

ADVERSARIAL = "adversarial"
"""The split that stands for a task's rows of AdvGLUE, which come in one file for all tasks."""

HIGHEST = 5.0
"""STS-B's scores go from 0 to this."""


@dataclass(frozen=True)
class GlueTask:
    """One task of GLUE.

    Attributes:
        name: what `farss glue --tasks` takes.
        texts: the field, or the two fields, that are read.
        labels: meaning of the classes 0, 1, ... in the order of the Hugging Face data set; empty for a regression.
        metrics: what is reported, the one that methods are compared by first.
        adversarial: what its rows are called in AdvGLUE.
    """

    name: str
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[Metric, ...]
    adversarial: tuple[str, ...] = ()

    @property
    def classes(self) -> int:
        """Outputs of a classifier: 1 for a regression."""
        return max(1, len(self.labels))


@dataclass(frozen=True)
class GlueRow:
    """One row.

    Attributes:
        id: unique in its split.
        texts: one or two.
        label: class index, or a float for a regression.
    """

    id: str
    texts: tuple[str, ...]
    label: int | float


_PAIR = ("sentence1", "sentence2")
_ENTAILMENT = ("entailment", "not_entailment")

GLUE: Mapping[str, GlueTask] = {
    task.name: task
    for task in (
        GlueTask("cola", ("sentence",), ("unacceptable", "acceptable"), ("matthews", "accuracy")),
        GlueTask("sst2", ("sentence",), ("negative", "positive"), ("accuracy",), ("sst2",)),
        GlueTask("mrpc", _PAIR, ("not_equivalent", "equivalent"), ("accuracy", "f1")),
        GlueTask("rte", _PAIR, _ENTAILMENT, ("accuracy",), ("rte",)),
        GlueTask("qnli", ("question", "sentence"), _ENTAILMENT, ("accuracy",), ("qnli",)),
        GlueTask("stsb", _PAIR, (), ("pearson", "spearman")),
        GlueTask("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), ("accuracy", "f1"), ("qqp",)),
        GlueTask(
            "mnli",
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            ("accuracy",),
            ("mnli", "mnli-mm"),
        ),
    )
}


def glue_task(name: str) -> GlueTask:
    """The task of this name.

    Raises:
        ConfigError: if there is none, naming the nearest.
    """
    if name in GLUE:
        return GLUE[name]
    raise ConfigError(f"unknown GLUE task `{name}`", expected=" | ".join(GLUE), do=did_you_mean(name, GLUE))


def glue_rows(
    task: GlueTask, split: str, *, data_dir: str | Path | None = None, limit: int | None = None, seed: int | None = None
) -> list[GlueRow]:
    """The rows of one split of a task, every one with a label.

    Args:
        task: of `GLUE`.
        split: "train" or "validation" (of MNLI the matched one), found as `glue/NAME` by `load_rows`; or "adversarial":
            the task's rows of `adv_glue/validation`, which must be in the data directory.
        data_dir: folder laid out as `NAME/SPLIT.jsonl.gz`.
        limit: at most this many rows, None for all.
        seed: which rows a limit keeps: None the first ones, a number a shuffle's first ones.

    Raises:
        DataError: if the set is nowhere to be found, or a row lacks a text or a label of the task; it names the row.
    """
    if split == ADVERSARIAL:
        rows = load_rows("adv_glue", "validation", data_dir=data_dir)
        found = [row for row in rows if row.get("task") in task.adversarial]
        if not found:
            raise DataError(
                "AdvGLUE has no rows of this task", where=task.name, expected="sst2 | qqp | mnli | qnli | rte"
            )
        return [_row(task, row, number) for number, row in enumerate(found)][:limit]
    rows = load_rows(f"glue/{task.name}", split, data_dir=data_dir, limit=limit, seed=seed)
    return [_row(task, row, number) for number, row in enumerate(rows)]


def _row(task: GlueTask, row: Mapping[str, Any], number: int) -> GlueRow:
    where = f"{task.name}, row {number}"
    missing = [field for field in task.texts if not isinstance(row.get(field), str)]
    if missing:
        raise DataError("a row lacks a text of the task", where=where, expected=", ".join(missing), got=list(row))
    name = row.get("idx", number)
    origin = f"{row['task']}-" if "task" in row else ""
    return GlueRow(f"{origin}{name}", tuple(row[field] for field in task.texts), _label(task, row.get("label"), where))


def _label(task: GlueTask, label: object, where: str) -> int | float:
    if task.labels:
        if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(task.labels):
            return label
        expected = f"0 to {len(task.labels) - 1}"
    else:
        if isinstance(label, int | float) and not isinstance(label, bool) and 0 <= label <= HIGHEST:
            return float(label)
        expected = f"a number from 0 to {HIGHEST:g}"
    got = "none" if label is None or (isinstance(label, float) and math.isnan(label)) else repr(label)
    raise DataError(
        "a row has no label of the task", where=where, expected=expected, got=got, do="the hub's test splits have none"
    )
