"""The parts of an evaluation, each measured once and kept: sets and task, benchmarks of ours, tasks of lm-eval."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from farss.config import Recipe
from farss.errors import StorageError
from farss.evaluation.backends import Backend
from farss.evaluation.benchmarks.registry import get_benchmark
from farss.evaluation.harness import run_tasks
from farss.evaluation.records import Measurement
from farss.evaluation.scores import summarise
from farss.evaluation.window import asking, counting_cuts
from farss.experiment.benchmarking import benchmark_run
from farss.experiment.kept_scores import KeptScores, Part
from farss.experiment.measuring import SAMPLES, measure
from farss.experiment.progress import ProgressLine
from farss.reading import Document
from farss.storage import write_json

HARNESS = "lm-eval"
HARNESS_SAMPLES = "lm-eval-samples.json"
BENCHMARK_SAMPLES = "benchmark-samples.json"
SAMPLES_FILE = Document(
    "record of samples",
    StorageError,
    most_bytes=256 << 20,
    damaged="give --fresh to measure again, or choose another --out",
)


def ask_sets(recipe: Recipe, backend: Backend, title: str, kept: KeptScores, *, task: bool) -> None:
    """Measure the recipe's knowledge sets, and its task if that is asked for."""
    found = Measurement()

    def ask() -> Part:
        nonlocal found
        started = time.perf_counter()
        with counting_cuts() as cut:
            if task or recipe.eval.knowledge:
                with ProgressLine(f"evaluating {title}".rstrip()) as line:
                    found = measure(recipe, backend, rows=None, words=True, task=task, progress=line)
        return {"scores": summarise(found), "cut": cut, "seconds": time.perf_counter() - started}

    kept.measure("sets", ask, SAMPLES, lambda file: found.save(file))


def ask_benchmark(recipe: Recipe, name: str, backend: Backend, kept: KeptScores) -> None:
    """Measure a benchmark of ours; its samples join those of the others in one file."""
    samples: list[dict[str, object]] = []

    def ask() -> Part:
        started = time.perf_counter()
        with counting_cuts() as cut, asking(f"benchmark/{name}"), ProgressLine(name) as line:
            found = get_benchmark(name).run(benchmark_run(recipe, backend, line))
        samples.extend(sample.to_mapping() for sample in found.samples)
        scores = _prefixed("benchmark", {name: found.scores})
        return {"scores": scores, "cut": cut, "seconds": time.perf_counter() - started}

    def save(file: Path) -> None:
        others = SAMPLES_FILE.read_object(file) if file.is_file() else {}
        write_json(file, others | {name: samples})

    kept.measure(f"benchmark {name}", ask, BENCHMARK_SAMPLES, save)


def ask_harness(recipe: Recipe, names: Sequence[str], backend: Backend, kept: KeptScores) -> None:
    """Measure all tasks of lm-eval, in one call."""
    samples: dict[str, list[dict[str, Any]]] = {}

    def ask() -> Part:
        started = time.perf_counter()
        where, limit = recipe.data.data_dir, recipe.eval.task_rows
        with counting_cuts() as cut, asking(HARNESS):
            found = run_tasks(backend, names, data_dir=where, limit=limit)
        samples.update(found.samples)
        scores, seconds = _prefixed("lm-eval", found.scores), time.perf_counter() - started
        return {"scores": scores, "versions": found.versions, "cut": cut, "seconds": seconds}

    kept.measure(
        HARNESS,
        ask,
        HARNESS_SAMPLES,
        lambda file: write_json(file, json.loads(json.dumps(samples, default=str))),
    )


def _prefixed(kind: str, scores: Mapping[str, dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    return {f"{kind}/{name}/{metric}": score for name, row in scores.items() for metric, score in row.items()}
