"""Benchmarks of ours and tasks of lm-eval that a recipe measures a model on."""

from __future__ import annotations

import sys
from pathlib import Path

from farss.config import Recipe
from farss.datasets.files import count_rows, data_file
from farss.errors import ConfigError
from farss.evaluation.backends import Backend
from farss.evaluation.benchmarks.base import BenchmarkRun
from farss.evaluation.benchmarks.registry import check_benchmarks, get_benchmark
from farss.evaluation.harness import PREFIX, check_tasks, run_tasks
from farss.evaluation.records import Progress, TaskSample
from farss.evaluation.window import asking
from farss.experiment.listing import files_of


def check_measured(recipe: Recipe) -> None:
    """Check, before a model is loaded, that everything `eval.benchmarks` names can be asked.

    Raises:
        ConfigError, DataError: if a name is unknown, comes twice, or its files are missing.
        SandboxError: if a benchmark runs a model's code and this system cannot keep it in its place.
    """
    names = recipe.eval.benchmarks
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError("a benchmark comes twice", where="eval.benchmarks", got=", ".join(twice))
    foreign = [name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX)]
    ours = [name for name in names if not name.startswith(PREFIX)]
    if foreign:
        check_tasks(foreign, recipe.data.data_dir)
    if ours:
        check_benchmarks(ours, data_dir_of(recipe, "benchmarks"))


def benchmark_answers(recipe: Recipe) -> int:
    """How many answers the recipe's benchmarks ask of a model, by the rows of the first file each reads."""
    folder, limit = recipe.data.data_dir, recipe.eval.task_rows
    if folder is None:
        return 0
    files = [data_file(folder, files_of(name, folder)[0]) for name in recipe.eval.benchmarks]
    counts = [count_rows(file) for file in files if file.is_file()]
    return sum(rows if limit is None else min(rows, limit) for rows in counts)


def benchmark_run(recipe: Recipe, backend: Backend, progress: Progress | None) -> BenchmarkRun:
    """What a benchmark is given: the recipe's rows of it."""
    return BenchmarkRun(
        backend,
        Path(data_dir_of(recipe, "benchmarks")),
        recipe.eval.task_rows,
        seed=recipe.eval.seed,
        progress=progress,
        announce=lambda text: print(text, file=sys.stderr, flush=True),
    )


def benchmark_samples(recipe: Recipe, backend: Backend, name: str, progress: Progress | None) -> list[TaskSample]:
    """The answers to a benchmark as samples of a task.

    Args:
        recipe: names the data directory and how many rows are asked.
        backend: the model.
        name: as `eval.benchmarks` has it.
        progress: called with (rows done, rows in all), where the benchmark tells.

    Raises:
        ConfigError: if answers to it are not either right or wrong.
    """
    with asking(name):
        if name.startswith(PREFIX):
            task = name.removeprefix(PREFIX)
            found = run_tasks(backend, [task], data_dir=recipe.data.data_dir, limit=recipe.eval.task_rows)
            return found.task_samples()
        benchmark = get_benchmark(name)
        return benchmark.task_samples(benchmark.run(benchmark_run(recipe, backend, progress)))


def data_dir_of(recipe: Recipe, what: str) -> str:
    """The recipe's data directory.

    Raises:
        ConfigError: if it names none; `what` needs one.
    """
    if recipe.data.data_dir is None:
        raise ConfigError(f"{what} take their rows from a data directory", do="name it with --data-dir")
    return recipe.data.data_dir
