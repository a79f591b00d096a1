"""`farss eval`: one model on knowledge sets, a training task, benchmarks of ours and tasks of lm-eval."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from farss.adapters.switching import adapted
from farss.config import Recipe
from farss.datasets.catalogue import CATALOGUE
from farss.datasets.files import is_data_file
from farss.errors import ConfigError, near_names
from farss.evaluation.backends import Backend, TorchBackend
from farss.evaluation.benchmarks.base import BenchmarkResult, BenchmarkRun
from farss.evaluation.benchmarks.registry import BENCHMARKS, check_benchmarks
from farss.evaluation.harness import PREFIX, SOURCES, HarnessResult, check_tasks, run_tasks
from farss.evaluation.records import Measurement
from farss.evaluation.scores import summarise
from farss.evaluation.vllm_backend import VllmBackend
from farss.experiment import materials
from farss.experiment.arithmetic import settle
from farss.experiment.environment import device, versions
from farss.experiment.measuring import SAMPLES, measure
from farss.experiment.progress import ProgressLine
from farss.experiment.steps import require_adapter, require_new
from farss.model.sources import LoadedModel, resolve
from farss.storage import write_json

BackendName = Literal["torch", "vllm"]
BASE = "base"
"""Among several adapters, the name of the model without any."""
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
        ConfigError: if it is a task for classifiers, a task of lm-eval without the prefix, or no set but near a
            benchmark's name.
    """
    if name in CATALOGUE and CATALOGUE[name].kind == "classification":
        raise ConfigError(
            "a task for classifiers has a verb of its own", got=name, do=f"farss glue --tasks {name.rpartition('/')[2]}"
        )
    if name in CATALOGUE or is_data_file(name):
        return
    near = [f"{PREFIX}{name}"] if name in SOURCES else []
    if not near and not Path(name).is_dir() and not (data_dir and Path(data_dir, name).is_dir()):
        near = near_names(name, [*CATALOGUE, *BENCHMARKS])
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
        check_tasks(requested.foreign, recipe.data.data_dir)
    if requested.benchmarks:
        check_benchmarks(requested.benchmarks, _data_dir(recipe, "benchmarks"))
    materials.check_inputs(recipe, train=False, test=bool(requested.tasks))


def evaluate(
    recipe: Recipe,
    names: tuple[str, ...],
    out: str | Path,
    *,
    adapters: Sequence[str | Path] = (),
    backend: BackendName = "torch",
) -> dict[str, Any]:
    """Score a model on everything named; leaves `results.json` and the samples.

    `eval.task_rows` limits the rows of the task, of every benchmark and of every task of lm-eval (of a group of
    lm-eval, the rows of each of its tasks, as lm-eval does). With several adapters the base model is loaded once, every
    adapter has a folder of its own in `out`, and `out/results.json` holds all their results under "runs".

    Args:
        recipe: the model, the data directory and how sets are asked.
        names: knowledge sets, at most one training task, benchmarks, and tasks of lm-eval as `lm-eval:NAME`.
        out: a folder that is new or empty.
        adapters: LoRA folders of PEFT for that model, or ones that farss wrote; "base" among several stands for
            the model alone.
        backend: what reads and writes: PyTorch, or vLLM (knowledge sets and the task, at most one adapter).

    Raises:
        ConfigError: if no task, or more than one training task, is named, an adapter comes twice, `out` is not
            empty, or vLLM is asked for what it is not used for here.
        DataError: if a set is missing, empty, or its rows lack fields.
        AdapterError: if an adapter is missing or belongs to another base.
        SandboxError: if a benchmark runs a model's code and this system cannot keep it in its place.
    """
    requested = Requested.of(names)
    recipe = requested.recipe(recipe)
    require_new(out)
    folders = _named(adapters)
    for adapter in folders.values():
        if adapter is not None:
            require_adapter(adapter)
    if backend == "vllm":
        _check_vllm(recipe, requested, folders)
    check_request(recipe, requested)
    if backend == "vllm":
        return _evaluate_with_vllm(recipe, requested, Path(out), next(iter(folders.values()), None))
    recipe, _ = settle(recipe)
    loaded = materials.load_model(recipe)
    if len(folders) < 2:
        return _evaluate_one(recipe, requested, loaded, next(iter(folders.values()), None), Path(out))
    runs = {
        name: _evaluate_one(recipe, requested, loaded, adapter, Path(out) / name) for name, adapter in folders.items()
    }
    result = {"model": loaded.name, "runs": runs, "path": str(Path(out) / RESULTS)}
    write_json(Path(out) / RESULTS, result)
    return result


def _named(adapters: Sequence[str | Path]) -> dict[str, Path | None]:
    """Adapter folders by names that tell them apart; None for the base model.

    Raises:
        ConfigError: if one comes twice.
    """
    several = len(adapters) > 1
    folders = [None if several and str(adapter) == BASE else Path(adapter) for adapter in adapters]
    places = [None if folder is None else folder.resolve() for folder in folders]
    if len(set(places)) < len(places):
        raise ConfigError("an adapter comes twice", where="--adapter", got=", ".join(map(str, adapters)))
    names = iter(telling_names([place for place in places if place is not None]))
    return {BASE if folder is None else next(names): folder for folder in folders}


def telling_names(places: Sequence[Path]) -> list[str]:
    """Short names for different folders: of the shortest path endings that differ, the first part if that differs too.

    `run/lora-seed0/train/peft` and `run/pissa-seed0/train/peft` are called `lora-seed0` and `pissa-seed0`.
    """
    for length in range(1, max((len(place.parts) for place in places), default=0) + 1):
        endings = [place.parts[-length:] for place in places]
        for names in ([ending[0] for ending in endings], ["-".join(ending) for ending in endings]):
            if len({*names, BASE}) > len(places):
                return [name.strip("/") for name in names]
    return []


def _evaluate_one(
    recipe: Recipe, requested: Requested, loaded: LoadedModel, adapter: Path | None, place: Path
) -> dict[str, Any]:
    """One model, with or without an adapter, which is taken off again afterwards."""
    started, base, tokenizer = time.perf_counter(), loaded.model, loaded.tokenizer
    title = "" if adapter is None else adapter.name
    with nullcontext(base) if adapter is None else adapted(base, adapter, fingerprint=loaded.fingerprint) as model:
        model.eval()
        measurement = _measure(recipe, requested, TorchBackend(model, tokenizer), title)
        measurement.save(place / SAMPLES)
        benchmarks = {name: _ask(recipe, name, model, tokenizer) for name in requested.benchmarks}
        if benchmarks:
            write_json(place / BENCHMARK_SAMPLES, {name: found.samples for name, found in benchmarks.items()})
        harness = None
        if requested.foreign:
            where, limit = recipe.data.data_dir, recipe.eval.task_rows
            harness = run_tasks(model, tokenizer, requested.foreign, data_dir=where, limit=limit)
            write_json(place / HARNESS_SAMPLES, json.loads(json.dumps(harness.samples, default=str)))
    scores = summarise(measurement) | _benchmark_scores(benchmarks) | _harness_scores(harness)
    account = _account(recipe, loaded.name, adapter, scores, started, place)
    account["arithmetic"] = None if loaded.arithmetic is None else loaded.arithmetic.to_mapping()
    account["lm_eval_versions"] = harness.versions if harness else {}
    write_json(place / RESULTS, account)
    return account


def _evaluate_with_vllm(recipe: Recipe, requested: Requested, place: Path, adapter: Path | None) -> dict[str, Any]:
    started = time.perf_counter()
    model = resolve(recipe.model.name, recipe.model.revision)
    backend = VllmBackend(
        str(model),
        adapter,
        dtype="auto" if recipe.model.dtype == "checkpoint" else recipe.model.dtype,
        seed=recipe.eval.seed,
        trust_remote_code=recipe.model.trust_remote_code,
    )
    measurement = _measure(recipe, requested, backend, "" if adapter is None else adapter.name)
    measurement.save(place / SAMPLES)
    account = _account(recipe, recipe.model.name, adapter, summarise(measurement), started, place)
    account["lm_eval_versions"] = {}
    write_json(place / RESULTS, account)
    return account


def _check_vllm(recipe: Recipe, requested: Requested, folders: Mapping[str, Path | None]) -> None:
    """Refuse what is not asked through vLLM.

    Raises:
        ConfigError: naming it.
    """
    if recipe.device != "auto":
        raise ConfigError(
            "vLLM is built for one kind of device and takes that",
            where="--backend vllm",
            expected="device auto",
            got=recipe.device,
            do="choose among several GPUs with CUDA_VISIBLE_DEVICES, or leave --backend out",
        )
    others = [*requested.benchmarks, *(f"{PREFIX}{name}" for name in requested.foreign)]
    if others or len(folders) > 1:
        raise ConfigError(
            "vLLM answers knowledge sets and the task, with at most one adapter",
            where="--backend vllm",
            got=", ".join(others or folders),
            do="leave --backend out for these",
        )


def _account(
    recipe: Recipe, model: str, adapter: Path | None, scores: dict[str, Any], started: float, place: Path
) -> dict[str, Any]:
    return {
        "model": model,
        "adapter": str(adapter) if adapter else None,
        "scores": scores,
        "seconds": time.perf_counter() - started,
        "versions": versions(),
        "device": device(recipe.device),
        "recipe": recipe.to_mapping(),
        "path": str(place / RESULTS),
    }


def _measure(recipe: Recipe, requested: Requested, backend: Backend, title: str) -> Measurement:
    if not requested.measured:
        return Measurement()
    with ProgressLine(f"evaluating {title}".rstrip()) as line:
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
