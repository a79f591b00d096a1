"""`farss eval`: one model on knowledge sets, a training task, benchmarks of ours and tasks of lm-eval."""

from __future__ import annotations

import difflib
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from farss.adapters.files import load_adapter
from farss.config import Recipe
from farss.datasets.catalogue import CATALOGUE
from farss.datasets.files import is_data_file
from farss.errors import ConfigError
from farss.evaluation.backends import TorchBackend
from farss.evaluation.benchmarks.base import BenchmarkResult, BenchmarkRun
from farss.evaluation.benchmarks.registry import BENCHMARKS, check_benchmarks
from farss.evaluation.harness import PREFIX, SOURCES, HarnessResult, check_tasks, run_tasks
from farss.evaluation.records import Measurement
from farss.evaluation.scores import summarise
from farss.experiment import materials
from farss.experiment.environment import device, versions
from farss.experiment.measuring import SAMPLES, measure
from farss.experiment.progress import ProgressLine
from farss.experiment.steps import require_adapter, require_new
from farss.storage import write_json

RESULTS = "results.json"
HARNESS_SAMPLES = "lm-eval-samples.json"
BENCHMARK_SAMPLES = "benchmark-samples.json"


@dataclass(frozen=True)
class Requested:
    """What a list of names asks for.

    Attributes:
        knowledge: knowledge sets, by name or file.
        tasks: training tasks.
        benchmarks: benchmarks of ours.
        foreign: tasks of lm-eval, without their prefix.
    """

    knowledge: tuple[str, ...]
    tasks: tuple[str, ...]
    benchmarks: tuple[str, ...]
    foreign: tuple[str, ...]

    @classmethod
    def of(cls, names: Sequence[str]) -> Requested:
        """Each name put where it belongs; a training task that is also a benchmark is the task.

        Raises:
            ConfigError: if there is no name, more than one training task, or a name twice.
        """
        foreign = tuple(name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX))
        ours = [name for name in names if not name.startswith(PREFIX)]
        tasks = tuple(name for name in ours if name in CATALOGUE and CATALOGUE[name].kind == "task")
        benchmarks = tuple(name for name in ours if name in BENCHMARKS and name not in tasks)
        knowledge = tuple(name for name in ours if name not in (*tasks, *benchmarks))
        if not names or len(tasks) > 1:
            raise ConfigError("name knowledge sets, benchmarks and at most one task", got=", ".join(names))
        if len(set(names)) < len(names):
            raise ConfigError("a name comes twice", where="--tasks", got=", ".join(names))
        return cls(knowledge, tasks, benchmarks, foreign)

    @property
    def measured(self) -> bool:
        """Whether there is something that `measure` asks."""
        return bool(self.knowledge or self.tasks)

    def recipe(self, recipe: Recipe) -> Recipe:
        """The recipe with these knowledge sets and this task."""
        task = {"data.task": self.tasks[0]} if self.tasks else {}
        return recipe.override({"eval.knowledge": list(self.knowledge), **task})


def _refuse_near_miss(name: str, data_dir: str | None) -> None:
    """Refuse what would be taken for a knowledge set but is, or nearly is, the name of something else.

    Raises:
        ConfigError: if it is a task of lm-eval without the prefix, or no set but near a benchmark's name.
    """
    if name in CATALOGUE or is_data_file(name):
        return
    near = [f"{PREFIX}{name}"] if name in SOURCES else []
    if not near and not Path(name).is_dir() and not (data_dir and Path(data_dir, name).is_dir()):
        near = difflib.get_close_matches(name, [*CATALOGUE, *BENCHMARKS], n=1)
    if near and near[0] not in CATALOGUE:
        raise ConfigError(
            "no knowledge set, task or benchmark has this name", got=name, do=f"did you mean `{near[0]}`?"
        )


def check_request(recipe: Recipe, requested: Requested) -> None:
    """Check, before a model is loaded, that everything asked for can be run.

    Args:
        recipe: already `requested.recipe(recipe)`.
        requested: what is asked for.

    Raises:
        ConfigError, DataError: if a name is unknown or a file is missing; it is named.
        ModelError: if the model is not found.
        SandboxError: if a benchmark runs a model's code and this system cannot keep it in its place.
    """
    for name in requested.knowledge:
        _refuse_near_miss(name, recipe.data.data_dir)
    if requested.foreign:
        check_tasks(requested.foreign, _data_dir(recipe, "tasks of lm-eval"))
    if requested.benchmarks:
        check_benchmarks(requested.benchmarks, _data_dir(recipe, "benchmarks"))
    materials.check_inputs(recipe, train=False, test=bool(requested.tasks))


def evaluate(
    recipe: Recipe, names: tuple[str, ...], out: str | Path, *, adapter: str | Path | None = None
) -> dict[str, Any]:
    """Score a model on everything named; leaves `results.json` and the samples.

    `eval.task_rows` limits the rows of the task, of every benchmark and of every task of lm-eval (of a group of
    lm-eval, the rows of each of its tasks, as lm-eval does).

    Args:
        recipe: the model, the data directory and how sets are asked.
        names: knowledge sets, at most one training task, benchmarks, and tasks of lm-eval as `lm-eval:NAME`.
        out: a folder that is new or empty.
        adapter: any PEFT adapter folder of that model.

    Raises:
        ConfigError: if no task, or more than one training task, is named, or `out` is not empty.
        DataError: if a set is missing, empty, or its rows lack fields.
        AdapterError: if the adapter is missing or belongs to another base.
        SandboxError: if a benchmark runs a model's code and this system cannot keep it in its place.
    """
    requested = Requested.of(names)
    recipe = requested.recipe(recipe)
    require_new(out)
    if adapter is not None:
        require_adapter(adapter)
    check_request(recipe, requested)
    loaded = materials.load_model(recipe)
    model = load_adapter(loaded.model, adapter) if adapter else loaded.model
    model.eval()
    started, place = time.perf_counter(), Path(out)
    measurement = _measure(recipe, requested, model, loaded.tokenizer)
    measurement.save(place / SAMPLES)
    benchmarks = {name: _ask(recipe, name, model, loaded.tokenizer) for name in requested.benchmarks}
    if benchmarks:
        write_json(place / BENCHMARK_SAMPLES, {name: found.samples for name, found in benchmarks.items()})
    harness = None
    if requested.foreign:
        directory, limit = _data_dir(recipe, "tasks of lm-eval"), recipe.eval.task_rows
        harness = run_tasks(model, loaded.tokenizer, requested.foreign, data_dir=directory, limit=limit)
        write_json(place / HARNESS_SAMPLES, json.loads(json.dumps(harness.samples, default=str)))
    result = {
        "model": loaded.name,
        "adapter": str(adapter) if adapter else None,
        "scores": summarise(measurement) | _benchmark_scores(benchmarks) | _harness_scores(harness),
        "lm_eval_versions": harness.versions if harness else {},
        "seconds": time.perf_counter() - started,
        "versions": versions(),
        "device": device(),
        "recipe": recipe.to_mapping(),
        "path": str(place / RESULTS),
    }
    write_json(place / RESULTS, result)
    return result


def _measure(recipe: Recipe, requested: Requested, model: nn.Module, tokenizer: Any) -> Measurement:
    if not requested.measured:
        return Measurement()
    with ProgressLine("evaluating") as line:
        backend = TorchBackend(model, tokenizer)
        return measure(recipe, backend, rows=None, words=True, task=bool(requested.tasks), progress=line)


def _ask(recipe: Recipe, name: str, model: nn.Module, tokenizer: Any) -> BenchmarkResult:
    with ProgressLine(name) as line:
        return BENCHMARKS[name].run(
            BenchmarkRun(
                model,
                tokenizer,
                Path(_data_dir(recipe, "benchmarks")),
                recipe.eval.task_rows,
                seed=recipe.eval.seed,
                progress=line,
                announce=lambda text: print(text, file=sys.stderr, flush=True),
            )
        )


def _data_dir(recipe: Recipe, what: str) -> str:
    if recipe.data.data_dir is None:
        raise ConfigError(f"{what} take their rows from a data directory", do="name it with --data-dir")
    return recipe.data.data_dir


def _benchmark_scores(found: dict[str, BenchmarkResult]) -> dict[str, dict[str, Any]]:
    return _prefixed("benchmark", ((name, result.scores) for name, result in found.items()))


def _harness_scores(found: HarnessResult | None) -> dict[str, dict[str, Any]]:
    return _prefixed("lm-eval", found.scores.items() if found else ())


def _prefixed(kind: str, scores: Iterable[tuple[str, dict[str, dict[str, Any]]]]) -> dict[str, dict[str, Any]]:
    return {f"{kind}/{name}/{metric}": score for name, row in scores for metric, score in row.items()}
