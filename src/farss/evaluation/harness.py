"""lm-eval's own tasks on a model in memory, their data taken from a local directory: nothing reaches for a network.

Prompts, filters, metrics and versions are lm-eval's; only where a task's rows come from is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from farss.datasets.files import read_rows
from farss.errors import ConfigError, DataError

Row = dict[str, Any]
PREFIX = "lm-eval:"
"""How a task of lm-eval is told from a set of ours in a list of names."""

GROUP = "farss_local"
RESAMPLES = 1000
"""For the standard errors of perplexities; those of accuracies have a formula."""

SPLITS = {"training_split": "train", "validation_split": "validation", "test_split": "test"}
"""What lm-eval calls a split, and what a task's configuration calls the one it takes for it."""

HEADING = re.compile(r"^ = [^=].*[^=] = \s*$")
"""The first line of an article of WikiText: one equals sign on each side."""


def _unchanged(rows: list[Row]) -> list[Row]:
    return rows


def _hellaswag(rows: list[Row]) -> list[Row]:
    """The hub's fields from cleaned ones; lm-eval's own cleaning leaves clean text as it is."""
    found = []
    for row in rows:
        activity, _, context = row["query"].partition(": ")
        found.append(
            {
                "activity_label": activity,
                "ctx_a": context,
                "ctx_b": "",
                "endings": row["endings"],
                "label": str(row["label"]),
            }
        )
    return found


def _pages(rows: list[Row]) -> list[Row]:
    """WikiText's lines put together to articles."""
    pages: list[list[str]] = []
    for row in rows:
        line = row["text"]
        if HEADING.match(line) or not pages:
            pages.append([])
        pages[-1].append(line.rstrip("\r\n"))
    return [{"page": "\n".join(lines)} for lines in pages if any(line.strip() for line in lines)]


@dataclass(frozen=True)
class Source:
    """Where one task of lm-eval finds its rows in a data directory.

    Attributes:
        files: split of the task -> `NAME/SPLIT` in the data directory.
        convert: to the fields of the data set's own version on the hub.
    """

    files: Mapping[str, str]
    convert: Callable[[list[Row]], list[Row]] = field(default=_unchanged)


SOURCES: dict[str, Source] = {
    "triviaqa": Source({"train": "trivia_qa/train_slice", "validation": "trivia_qa/dev"}),
    "nq_open": Source({"train": "nq_open/train_slice", "validation": "nq_open/dev"}),
    "webqs": Source({"train": "web_questions/train", "test": "web_questions/test"}),
    "gsm8k": Source({"train": "gsm8k/train", "test": "gsm8k/test"}),
    "arc_easy": Source({"train": "arc_easy/train", "test": "arc_easy/test"}),
    "arc_challenge": Source({"train": "arc_challenge/train", "test": "arc_challenge/test"}),
    "openbookqa": Source(
        {"train": "openbookqa/train", "validation": "openbookqa/validation", "test": "openbookqa/test"}
    ),
    "hellaswag": Source({"validation": "hellaswag/validation"}, _hellaswag),
    "piqa": Source({"validation": "piqa/validation"}),
    "winogrande": Source({"validation": "winogrande/validation"}),
    "wikitext": Source({"test": "wikitext2/test_raw"}, _pages),
}


@dataclass(frozen=True)
class HarnessResult:
    """What lm-eval measured.

    Attributes:
        scores: task -> metric (with its filter where that is not "none") -> {"value", "stderr" or None, "n"}.
        versions: task -> lm-eval's version of the task.
        samples: task -> lm-eval's records, one per document.
    """

    scores: dict[str, dict[str, dict[str, Any]]]
    versions: dict[str, Any]
    samples: dict[str, list[dict[str, Any]]]


def check_tasks(names: Sequence[str], data_dir: str | Path) -> None:
    """Check, before a model is loaded, that tasks are known and their files are there.

    Raises:
        ConfigError: if a task is not among `SOURCES`.
        DataError: if a file is missing; it is named.
    """
    unknown = [name for name in names if name not in SOURCES]
    if unknown:
        raise ConfigError("a task of lm-eval is not known here", got=unknown[0], expected=" | ".join(SOURCES))
    for name in names:
        for stem in SOURCES[name].files.values():
            _file(Path(data_dir), stem, name)


def run_tasks(
    model: nn.Module,
    tokenizer: Any,
    names: Sequence[str],
    *,
    data_dir: str | Path,
    limit: int | None = None,
    shots: int | None = None,
    batch_size: int = 8,
    seed: int = 1234,
) -> HarnessResult:
    """Run tasks of lm-eval on `model` as it is, adapters switched on included; no merge is needed.

    Args:
        model: a causal language model, or a PEFT model of one.
        tokenizer: its tokenizer.
        names: tasks of `SOURCES`.
        data_dir: folder laid out as `NAME/SPLIT.jsonl.gz`.
        limit: documents per task; None for all.
        shots: examples before each question; None takes the task's own number.
        batch_size: sequences of one forward pass.
        seed: of the choice of examples (lm-eval's default).

    Raises:
        ConfigError, DataError: as `check_tasks`, or if lm-eval is not installed.
    """
    check_tasks(names, data_dir)
    evaluator, adapter_for = _lm_eval()
    # In a group, settings are laid over the registered task; alone, they would be a task of their own.
    specs = [{"group": GROUP, "task": [_spec(name, Path(data_dir)) for name in names]}]
    found = evaluator.simple_evaluate(
        model=adapter_for(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
        tasks=specs,
        num_fewshot=shots,
        limit=limit,
        log_samples=True,
        bootstrap_iters=RESAMPLES,
        fewshot_random_seed=seed,
    )
    counts = found["n-samples"]
    return HarnessResult(
        scores={name: _scores(found["results"][name], counts[name]["effective"]) for name in names},
        versions={name: found["versions"].get(name) for name in names},
        samples={name: found["samples"][name] for name in names},
    )


def _lm_eval() -> tuple[Any, Any]:
    try:
        from lm_eval import evaluator
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise ConfigError(
            "tasks of lm-eval need its package", got=str(error), do='pip install "farss[eval]"'
        ) from error
    return evaluator, HFLM


def _spec(name: str, data_dir: Path) -> dict[str, Any]:
    """lm-eval's own configuration of the task with its rows given by us."""

    def rows(**_: Any) -> Any:
        from datasets import Dataset, DatasetDict

        source = SOURCES[name]
        return DatasetDict(
            {
                split: Dataset.from_list(source.convert(read_rows(_file(data_dir, stem, name))))
                for split, stem in source.files.items()
            }
        )

    absent = {key: None for key, split in SPLITS.items() if split not in SOURCES[name].files}
    return {"task": name, "custom_dataset": rows, "dataset_kwargs": {}, **absent}


def _file(data_dir: Path, stem: str, task: str) -> Path:
    file = data_dir / f"{stem}.jsonl.gz"
    if not file.is_file():
        raise DataError("the data of a task are missing", where=f"lm-eval task {task}", expected=file)
    return file


def _scores(result: Mapping[str, Any], n: int) -> dict[str, dict[str, Any]]:
    """lm-eval's `metric,filter` entries as value, standard error (None where it gives none) and number."""
    found = {}
    for key, value in result.items():
        metric, comma, chosen = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, (int, float)):
            continue
        error = result.get(f"{metric}_stderr,{chosen}")
        name = metric if chosen == "none" else f"{metric}/{chosen}"
        found[name] = {"value": value, "stderr": error if isinstance(error, (int, float)) else None, "n": n}
    return found
