"""`farss eval`: one model on knowledge sets, a training task, benchmarks of ours and tasks of lm-eval."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farss.adapters.files import read_config
from farss.adapters.switching import adapted
from farss.config import BackendName, Recipe
from farss.datasets.catalogue import CATALOGUE
from farss.datasets.files import is_data_file
from farss.errors import ConfigError, near_names
from farss.evaluation.backends import Backend, TorchBackend
from farss.evaluation.benchmarks.registry import benchmark_names, check_benchmarks
from farss.evaluation.harness import PREFIX, SOURCES, check_tasks
from farss.experiment import materials
from farss.experiment.arithmetic import settle
from farss.experiment.asking import (
    BENCHMARK_SAMPLES,
    HARNESS,
    HARNESS_SAMPLES,
    ask_benchmark,
    ask_harness,
    ask_sets,
)
from farss.experiment.benchmarking import data_dir_of
from farss.experiment.dating import dated
from farss.experiment.environment import device, versions
from farss.experiment.fetched import Inputs
from farss.experiment.kept_scores import (
    REQUEST,
    RESULTS,
    SO_FAR,
    KeptScores,
    check_same_request,
    date_of_request,
    note_request,
)
from farss.experiment.measuring import SAMPLES
from farss.experiment.outputs import begin_again, check_output, inputs_on_disk
from farss.experiment.serving import check_served, served
from farss.experiment.steps import require_adapter
from farss.experiment.unchanged import model_input
from farss.model.fingerprints import files_hash
from farss.model.sources import LoadedModel
from farss.processes import require_one_process
from farss.reading import is_folder
from farss.storage import held
from farss.storage.owned import LOCK, MARK, check_own, take

BASE = "base"
"""Among several adapters, the name of the model without any."""
VERB = "eval"
FILES = (REQUEST, RESULTS, SO_FAR, SAMPLES, BENCHMARK_SAMPLES, HARNESS_SAMPLES)
"""What is written for a model; of several models each has a folder with these."""
TAKEN = {BASE, RESULTS, REQUEST, MARK, LOCK}
"""Names in the folder of several adapters that none of them can have."""


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
    def of(cls, names: Sequence[str], task: str | None = None) -> Requested:
        """Each name put where it belongs; a training task that is also a benchmark is the task.

        Args:
            names: of everything.
            task: a name, file or hub data set whose held-out rows are a training task's.

        Raises:
            ConfigError: if there is no name, more than one training task, or a name twice.
        """
        foreign = tuple(name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX))
        ours = [name for name in names if not name.startswith(PREFIX)]
        tasks = tuple(name for name in ours if name in CATALOGUE and CATALOGUE[name].kind == "task")
        if task is not None and task not in tasks:
            tasks = (*tasks, task)
        benchmarks = tuple(name for name in ours if name in benchmark_names() and name not in tasks)
        knowledge = tuple(name for name in ours if name not in (*tasks, *benchmarks))
        if not (names or task) or len(tasks) > 1:
            raise ConfigError("name knowledge sets, benchmarks and at most one task", got=", ".join(names))
        if len(set(names)) < len(names):
            raise ConfigError("a name comes twice", where="--tasks", got=", ".join(names))
        return cls(knowledge, tasks, benchmarks, foreign)

    def recipe(self, recipe: Recipe) -> Recipe:
        """The recipe with these knowledge sets and this task."""
        task = {"data.task": self.tasks[0]} if self.tasks else {}
        return recipe.override({"eval.knowledge": list(self.knowledge), "eval.benchmarks": [], **task})


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
    if not near and not is_folder(name) and not (data_dir and is_folder(Path(data_dir, name))):
        near = near_names(name, [*CATALOGUE, *benchmark_names()])
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
        check_benchmarks(requested.benchmarks, data_dir_of(recipe, "benchmarks"))
    materials.check_inputs(recipe, train=False, test=bool(requested.tasks))


def evaluate(
    recipe: Recipe,
    names: tuple[str, ...],
    out: str | Path,
    *,
    adapters: Sequence[str | Path] = (),
    backend: BackendName | None = None,
    fresh: bool = False,
    task: str | None = None,
) -> dict[str, Any]:
    """Score a model on everything named; leaves `results.json` and the samples.

    `eval.task_rows` limits the rows of the task, of every benchmark and of every task of lm-eval (of a group of
    lm-eval, the rows of each of its tasks, as lm-eval does). With several adapters the base model is loaded once, every
    adapter has a folder of its own in `out`, and `out/results.json` holds all their results under "runs".

    Every part is written when it is measured: the same call goes on behind what an earlier one, which failed, had
    finished in `out`.

    Args:
        recipe: the model, the data directory and how sets are asked.
        names: knowledge sets, at most one training task, benchmarks, and tasks of lm-eval as `lm-eval:NAME`.
        out: a folder that is new or empty, or of an earlier call that asked for the same.
        adapters: LoRA folders of PEFT for that model, or ones that farss wrote; "base" among several stands for
            the model alone.
        backend: what reads and writes: PyTorch, or vLLM (at most one adapter); None takes the recipe's.
        fresh: remove what an earlier call left in the folder, and begin again.
        task: the training task whose held-out rows are measured, where it is no name of `farss tasks`: a file, say.

    Raises:
        ConfigError: if no task, or more than one training task, is named, an adapter comes twice, or vLLM is asked
            for what it is not used for here.
        OutputError: if `out` holds something else, or another evaluation, saying what differs.
        UnwrittenError: with what was measured, if that could not be written.
        DataError: if a set is missing, empty, or its rows lack fields.
        AdapterError: if an adapter is missing or belongs to another base.
        SandboxError: if a benchmark runs a model's code and this system cannot keep it in its place.
    """
    require_one_process("farss eval")
    requested = Requested.of(names, task)
    recipe, backend = Inputs.of(requested.recipe(recipe)), backend or recipe.eval.backend
    folders = _named(adapters)
    read = {f"the adapter {name}": folder for name, folder in folders.items()}
    place = check_output(VERB, out, inputs_on_disk(recipe) | read, FILES, fresh=fresh)
    if len(folders) > 1 and not fresh:
        for name in folders:
            check_own(place / name, VERB, FILES)
    for adapter in folders.values():
        if adapter is not None:
            require_adapter(adapter)
    if backend == "vllm":
        _check_vllm(recipe, folders)
    for adapter in folders.values():
        if adapter is not None:
            read_config(adapter)
    check_request(recipe, requested)
    recipe = dated(recipe, None if fresh else date_of_request(place))
    if backend == "torch":
        recipe, _ = settle(recipe)
    request = _request(recipe, names, folders, backend)
    if not fresh:
        check_same_request(place, request)
    with held(place):
        begin_again(place, fresh)
        take(place, VERB)
        note_request(place, request)
        return _measure_all(recipe, requested, folders, place, backend)


def _request(
    recipe: Recipe, names: Sequence[str], folders: Mapping[str, Path | None], backend: BackendName
) -> dict[str, Any]:
    """What is measured, as JSON: the same request has the same results."""
    chosen = {"tasks": list(names), "backend": backend, "model": recipe.model.to_mapping()}
    settings = {"data": recipe.data.to_mapping(), "eval": recipe.eval.to_mapping()}
    adapters = {name: None if folder is None else files_hash(folder) for name, folder in folders.items()}
    made = {**chosen, **settings, "adapters": adapters, "weights": next(iter(model_input(recipe).values()))}
    return json.loads(json.dumps(made))


def _measure_all(
    recipe: Recipe, requested: Requested, folders: Mapping[str, Path | None], place: Path, backend: BackendName
) -> dict[str, Any]:
    """Every adapter that was not measured by an earlier call; all are tried on the model before the first is."""
    several = len(folders) > 1
    named = folders or {"": None}
    kept = {name: KeptScores(place / name if several else place, VERB) for name in named}
    wanted = {name: folder for name, folder in named.items() if kept[name].result is None}
    if backend == "vllm" and wanted:
        _evaluate_with_vllm(recipe, requested, kept[next(iter(wanted))], next(iter(wanted.values())))
    elif wanted:
        loaded = materials.load_model(recipe)
        if several:
            _try_on(loaded, [folder for folder in wanted.values() if folder is not None])
        for name, folder in wanted.items():
            _evaluate_one(recipe, requested, loaded, folder, kept[name])
    runs = {name: scores.result for name, scores in kept.items()}
    if not several:
        return next(iter(runs.values())) or {}
    together = KeptScores(place, VERB)
    return together.finish({"model": recipe.model.name, "runs": runs, "path": str(place / RESULTS)})


def _try_on(loaded: LoadedModel, folders: Sequence[Path]) -> None:
    """Load every adapter once, so that one that does not fit is found before another was measured.

    Raises:
        AdapterError: if one is damaged, or was made for another base model.
    """
    for folder in folders:
        with adapted(loaded.model, folder, fingerprint=loaded.fingerprint):
            pass


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
            if len({*names}) == len(places) and not TAKEN.intersection(names):
                return [name.strip("/") for name in names]
    return []


def _evaluate_one(
    recipe: Recipe, requested: Requested, loaded: LoadedModel, adapter: Path | None, kept: KeptScores
) -> None:
    """One model, with or without an adapter, which is taken off again afterwards."""
    base, tokenizer = loaded.model, loaded.tokenizer
    title = "" if adapter is None else adapter.name
    with nullcontext(base) if adapter is None else adapted(base, adapter, fingerprint=loaded.fingerprint) as model:
        model.eval()
        _ask(recipe, requested, TorchBackend(model, tokenizer), title, kept)
    decided = None if loaded.arithmetic is None else loaded.arithmetic.to_mapping()
    rows = materials.measured_rows(recipe, tokenizer) if requested.tasks else None
    kept.finish({**_account(recipe, loaded.name, adapter, kept), "arithmetic": decided, "rows": rows})


def _ask(recipe: Recipe, requested: Requested, backend: Backend, title: str, kept: KeptScores) -> None:
    """Everything that is asked for, of one model."""
    ask_sets(recipe, backend, title, kept, task=bool(requested.tasks))
    for name in requested.benchmarks:
        ask_benchmark(recipe, name, backend, kept)
    if requested.foreign:
        ask_harness(recipe, requested.foreign, backend, kept)


def _evaluate_with_vllm(recipe: Recipe, requested: Requested, kept: KeptScores, adapter: Path | None) -> None:
    backend = served(recipe, adapter)
    _ask(recipe, requested, backend, "" if adapter is None else adapter.name, kept)
    rows = materials.measured_rows(recipe, backend.tokenizer) if requested.tasks else None
    kept.finish({**_account(recipe, recipe.model.name, adapter, kept), "rows": rows})


def _check_vllm(recipe: Recipe, folders: Mapping[str, Path | None]) -> None:
    """Refuse what is not asked through vLLM.

    Raises:
        ConfigError: naming it.
    """
    check_served(recipe)
    if len(folders) > 1:
        raise ConfigError(
            "vLLM answers with at most one adapter at a time",
            where="--backend vllm",
            got=", ".join(folders),
            do="evaluate them one after another, or leave --backend out",
        )


def _account(recipe: Recipe, model: str, adapter: Path | None, kept: KeptScores) -> dict[str, Any]:
    return {
        "model": model,
        "adapter": str(adapter) if adapter else None,
        "scores": kept.scores,
        "cut": kept.cut,
        "seconds": kept.seconds,
        "versions": versions(),
        "device": device(recipe.device),
        "recipe": recipe.to_mapping(),
        "path": str(kept.place / RESULTS),
        "lm_eval_versions": kept.parts.get(HARNESS, {}).get("versions", {}),
    }
