"""What a classifier says about every row, and the metrics of GLUE with standard errors."""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from farss.datasets.glue import GlueRow, GlueTask, Metric
from farss.errors import ConfigError, DataError, NumericalError
from farss.evaluation.records import SAMPLES_FILE, Progress
from farss.model.classification import LabelledExample, labelled_batches
from farss.model.modes import evaluating
from farss.reading import TEXT
from farss.storage import write_atomically

BATCH_TOKENS = 4096
SAMPLE = {
    "type": "object",
    "required": ["task", "split", "id", "label", "prediction", "logits"],
    "properties": {
        **{name: TEXT for name in ("task", "split", "id")},
        **{name: {"type": "number"} for name in ("label", "prediction")},
        "logits": {"type": "array", "items": {"type": "number"}, "minItems": 1},
    },
    "additionalProperties": False,
}
"""A line of a file of samples."""
CORRELATIONS: frozenset[Metric] = frozenset({"pearson", "spearman"})
"""Metrics of numbers; the others are made of classes."""

Score = dict[str, float | int | None]
Measure = Callable[[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64] | None], float]
"""Labels [n], answers [n] and, where rows stand for several, how often each counts, [n]."""


@dataclass(frozen=True)
class GlueSample:
    """One model's answer to one row.

    Attributes:
        task: name of the task.
        split: the split the row is of.
        id: of the row, unique in its split.
        label: what is right: a class, or a number for a regression.
        prediction: what the model said: the class of the highest logit, or its output.
        logits: all outputs.
    """

    task: str
    split: str
    id: str
    label: int | float
    prediction: int | float
    logits: tuple[float, ...]


def predict(
    model: nn.Module,
    examples: Sequence[LabelledExample],
    *,
    pad_id: int,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress | None = None,
) -> list[tuple[float, ...]]:
    """The outputs of a classifier, [c] for every example, in their order, in evaluation mode.

    Raises:
        DataError: if there are no examples.
        NumericalError: if an output is not finite.
    """
    order = sorted(range(len(examples)), key=lambda row: -len(examples[row]))
    queue = labelled_batches([examples[row] for row in order], batch_tokens=batch_tokens, pad_id=pad_id, sort=False)
    device = next(model.parameters()).device
    found: list[tuple[float, ...]] = []
    with evaluating(model), torch.no_grad():
        for batch in queue:
            logits = model(**batch.to(device).inputs, return_dict=True).logits.float().cpu()
            if not bool(torch.isfinite(logits).all()):
                raise NumericalError("an output of the model is not finite", do="run the model in float32")
            found += [tuple(row) for row in logits.tolist()]
            if progress is not None:
                progress(len(found), len(examples))
    placed = dict(zip(order, found, strict=True))
    return [placed[row] for row in range(len(examples))]


def samples_of(
    task: GlueTask, split: str, rows: Sequence[GlueRow], outputs: Sequence[tuple[float, ...]]
) -> list[GlueSample]:
    """One sample per row: the class of the highest logit, or the output itself for a regression."""
    return [
        GlueSample(task.name, split, row.id, row.label, _prediction(task, logits), logits)
        for row, logits in zip(rows, outputs, strict=True)
    ]


def _prediction(task: GlueTask, logits: tuple[float, ...]) -> int | float:
    return max(range(len(logits)), key=logits.__getitem__) if task.labels else logits[0]


def majority_samples(
    task: GlueTask, split: str, rows: Sequence[GlueRow], training: Sequence[GlueRow]
) -> list[GlueSample]:
    """What a guess that never looks would say: the commonest class of the training rows, or their mean."""
    labels = [row.label for row in training]
    guess = max(sorted(set(labels)), key=labels.count) if task.labels else sum(labels) / len(labels)
    return [GlueSample(task.name, split, row.id, row.label, guess, ()) for row in rows]


def score(
    task: GlueTask, runs: Sequence[Sequence[GlueSample]], *, bootstrap: int = 1000, seed: int = 0
) -> dict[Metric, Score]:
    """The task's metrics of one run, or their means over several runs on the same rows.

    Accuracy, F1 of class 1 and Matthews' coefficient are scikit-learn's, Pearson's and Spearman's coefficients SciPy's.

    Args:
        task: names the metrics.
        runs: per run one sample per row, in the same order of rows.
        bootstrap: resamples of the rows, the same for every run; for every metric but the accuracy of one run, whose
            standard error is that of a mean.
        seed: of the resampling.

    Returns:
        Per metric {"value", "stderr", "n"}, n rows. Both are None where the metric is undefined (a coefficient of
        correlation with constant predictions); resamples where it is are left out of the standard error.

    Raises:
        DataError: if there are no rows, or the runs have different ones.
        ConfigError: if scikit-learn is not installed.
    """
    if not runs or not runs[0]:
        raise DataError("there are no answers to score", where=task.name)
    if any([s.id for s in run] != [s.id for s in runs[0]] for run in runs):
        raise DataError("the runs were asked different rows, so they have no common score", where=task.name)
    truth = np.asarray([s.label for s in runs[0]], dtype=np.float64)
    answers = np.asarray([[s.prediction for s in run] for run in runs], dtype=np.float64)
    measures = _measures()
    return {name: _score(measures[name], name, truth, answers, bootstrap, seed) for name in task.metrics}


def _score(measure: Measure, name: Metric, truth: NDArray, answers: NDArray, bootstrap: int, seed: int) -> Score:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one class only, nearly constant values: of resamples that is no news
        return _with_error(measure, name, truth, answers, bootstrap, seed)


def _with_error(measure: Measure, name: Metric, truth: NDArray, answers: NDArray, bootstrap: int, seed: int) -> Score:
    value, n = _mean(measure, truth, answers), len(truth)
    if value is None:
        return {"value": None, "stderr": None, "n": n}
    if name == "accuracy":
        rows = (answers == truth).mean(axis=0)
        return {"value": value, "stderr": float(rows.std(ddof=1)) / math.sqrt(n) if n > 1 else None, "n": n}
    draw = np.random.default_rng(seed)
    samples = _resampled(name, truth, answers, bootstrap, draw)
    replicates = [found for rows in samples if (found := _mean(measure, *rows)) is not None]
    return {"value": value, "stderr": float(np.std(replicates, ddof=1)) if len(replicates) > 1 else None, "n": n}


def _resampled(
    name: Metric, truth: NDArray, answers: NDArray, bootstrap: int, draw: np.random.Generator
) -> Iterator[tuple[NDArray, NDArray, NDArray | None]]:
    """Labels, answers and counts of every resample of the rows.

    What is made of classes is known from how often each combination of label and answers occurs: drawing these numbers
    is drawing the rows, and as quick for 40,000 of them as for a hundred.
    """
    n = len(truth)
    if name in CORRELATIONS:
        for _ in range(bootstrap):
            chosen = draw.integers(0, n, n)
            yield truth[chosen], answers[:, chosen], None
    else:
        kinds, times = np.unique(np.vstack([truth, answers]), axis=1, return_counts=True)
        for counts in draw.multinomial(n, times / n, size=bootstrap):
            yield kinds[0], kinds[1:], counts


def _mean(measure: Measure, truth: NDArray, answers: NDArray, counts: NDArray | None = None) -> float | None:
    values = [measure(truth, run, counts) for run in answers]
    return float(np.mean(values)) if all(math.isfinite(value) for value in values) else None


def _measures() -> Mapping[Metric, Measure]:
    try:
        from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
    except ImportError as error:
        raise ConfigError(
            "the metrics of GLUE need scikit-learn", got=str(error), do="install it: pip install farss[eval]"
        ) from error
    from scipy.stats import pearsonr, spearmanr

    return {
        "accuracy": lambda truth, said, counts: float(accuracy_score(truth, said, sample_weight=counts)),
        "f1": lambda truth, said, counts: float(
            f1_score(truth, said, sample_weight=counts, zero_division=0.0)  # type: ignore[arg-type]  # a number is allowed
        ),
        "matthews": lambda truth, said, counts: float(matthews_corrcoef(truth, said, sample_weight=counts)),
        "pearson": lambda truth, said, counts: _coefficient(pearsonr, truth, said),
        "spearman": lambda truth, said, counts: _coefficient(spearmanr, truth, said),
    }


def _coefficient(correlate: Callable, truth: NDArray, said: NDArray) -> float:
    """SciPy's coefficient; NaN for constants and for fewer than two rows."""
    if len(truth) < 2 or np.ptp(truth) == 0 or np.ptp(said) == 0:
        return math.nan
    return float(correlate(truth, said).statistic)


def save_samples(samples: Sequence[GlueSample], path: str | Path) -> None:
    """Write one JSON object per sample to `path` (`.jsonl.gz`), atomically; equal samples give equal bytes.

    Raises:
        StorageError: if the file cannot be written.
    """
    text = "".join(json.dumps(dataclasses.asdict(sample), allow_nan=False) + "\n" for sample in samples)
    packed = gzip.compress(text.encode("utf-8"), mtime=0)
    write_atomically(path, lambda file: file.write_bytes(packed))


def load_samples(path: str | Path) -> list[GlueSample]:
    """Read what `save_samples` wrote.

    Raises:
        StorageError: if the file is missing, cut short, far too large or holds something else; the line is named.
    """
    lines = enumerate(SAMPLES_FILE.read_packed(path).split("\n"), start=1)
    records = [SAMPLES_FILE.parse_as(line, SAMPLE, f"{path}, line {number}") for number, line in lines if line]
    return [GlueSample(**{**record, "logits": tuple(record["logits"])}) for record in records]
