"""lm-eval's own tasks on a model in memory, their data from a local directory: then nothing reaches for a network.

Prompts, filters, metrics and versions are lm-eval's; only where a task's rows come from is replaced. Without a data
directory any task of lm-eval runs as it is, on rows of the hub.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farss.datasets.files import data_file, read_rows
from farss.errors import ConfigError, DataError, did_you_mean
from farss.evaluation import ifeval
from farss.evaluation.backends import Backend, TorchBackend
from farss.evaluation.local_tasks import SOURCES, Row, Source
from farss.evaluation.records import TaskSample

PREFIX = "lm-eval:"
"""How a task of lm-eval is told from a set of ours in a list of names."""

RESAMPLES = 1000
"""For the standard errors of perplexities; those of accuracies have a formula."""

SPLITS = {"training_split": "train", "validation_split": "validation", "test_split": "test"}
"""What lm-eval calls a split, and what a task's configuration calls the one it takes for it."""


@dataclass(frozen=True)
class HarnessResult:
    """What lm-eval measured.

    Attributes:
        scores: task -> metric (with its filter where that is not "none") -> {"value", "stderr" or None, "n"}; after a
            group come its members. n is the number of documents.
        versions: task -> lm-eval's version of the task; of a group, those of its members.
        samples: task -> lm-eval's records, one per document and filter; of a group, those of its members.
    """

    scores: dict[str, dict[str, dict[str, Any]]]
    versions: dict[str, Any]
    samples: dict[str, list[dict[str, Any]]]

    def task_samples(self) -> list[TaskSample]:
        """The documents as samples of tasks, right by the first metric and filter that lm-eval names.

        Raises:
            ConfigError: if that metric is not 0 or 1 for each document.
        """
        return [_sample(f"{PREFIX}{name}", record) for name, found in self.samples.items() for record in _first(found)]


def _first(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of a task's records those of its first filter: one per document."""
    return [record for record in records if record.get("filter") == records[0].get("filter")]


def _sample(task: str, record: Mapping[str, Any]) -> TaskSample:
    metric = next(iter(record["metrics"]), "")
    value = record.get(metric)
    if value not in (0, 1):
        raise ConfigError(
            "answers to a task of lm-eval are not right or wrong, so they are no task of a comparison",
            where=task,
            expected=f"0 or 1 as `{metric}` of each document",
            got=value,
            do="ask it with farss eval --tasks",
        )
    asked, said = record["arguments"], record["resps"]
    prompt = str(asked["gen_args_0"]["arg_0"] if isinstance(asked, Mapping) else asked[0][0])
    words = said[0][0] if said and isinstance(said[0][0], str) else None
    return TaskSample(task, str(record["doc_id"]), prompt, None, None, words, bool(value))


def check_tasks(names: Sequence[str], data_dir: str | Path | None) -> None:
    """Check, before a model is loaded, that tasks are known and that what they need is there.

    Args:
        names: tasks and groups.
        data_dir: where their rows are; None fetches them from the hub, here already.

    Raises:
        ConfigError: if a task is not among `SOURCES` (without a data directory: not one of lm-eval's, or one that runs
            a model's code), or a package is missing.
        DataError: if a file is missing, or rows cannot be fetched; it is named.
    """
    if data_dir is None:
        _check_stock(names)
        return
    unknown = [name for name in names if name not in SOURCES]
    if unknown:
        hint = did_you_mean(unknown[0], SOURCES)
        raise ConfigError("a task of lm-eval is not known here", got=unknown[0], expected=" | ".join(SOURCES), do=hint)
    _require_lm_eval()
    for name in names:
        for stem in SOURCES[name].all_stems:
            file = data_file(data_dir, stem)
            if not file.is_file():
                raise DataError("the data of a task are missing", where=f"lm-eval task {name}", expected=file)
    if ifeval.TASK in names:
        ifeval.check_ifeval(data_dir)


def _check_stock(names: Sequence[str]) -> None:
    _require_lm_eval()
    known = task_manager().task_index
    for name in names:
        if name not in known:
            raise ConfigError("lm-eval has no task of this name", got=name, do=did_you_mean(name, known))
        _refuse_code(name, bool(_definition(known[name].yaml_path).get("unsafe_code")))
    if ifeval.TASK in names:
        ifeval.check_ifeval(None)
    for name in names:
        try:
            built = _stock(name)
        except (OSError, ValueError) as error:  # datasets' ways to say that a set is not there or not to be reached
            raise DataError(
                "the data of a task could not be fetched",
                where=f"lm-eval task {name}",
                got=str(error),
                do="name a data directory with --data-dir, or check the connection to the hub",
            ) from error
        if isinstance(built, list):
            names_of = ", ".join(str(task.config.task) for task in built[:4])
            raise ConfigError("a tag of lm-eval stands for several tasks", got=name, do=f"name them: {names_of}, ...")
        _refuse_code(name, _runs_code(built))


def _refuse_code(name: str, runs: bool) -> None:
    if runs:
        raise ConfigError(
            "a task of lm-eval runs the model's code, and not in our sandbox", got=name, do="use humaneval or mbpp"
        )


def _stock(name: str) -> Any:
    """lm-eval's own task or group as it is."""
    manager = task_manager()
    return manager._factory.build(manager.task_index[name], overrides={}, registry=manager.task_index)


def _runs_code(built: Any) -> bool:
    """Whether a task, or a member of a group, wants to run a model's code."""
    from lm_eval.api.group import Group

    if isinstance(built, Group):
        return any(_runs_code(member) for member in built)
    return bool(getattr(built, "UNSAFE_CODE", False))


def _require_lm_eval() -> None:
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError("tasks of lm-eval need its package", got="lm_eval", do='pip install "farss[eval]"')


@functools.cache
def task_manager() -> Any:
    """lm-eval's index of its tasks, for which it reads thousands of files."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def rows_by_part(source: Source, data_dir: Path) -> dict[str | None, dict[str, list[Row]]]:
    """The rows of a task or group, in the fields of the hub's version.

    Returns:
        Part (None where there are none) -> split -> rows.

    Raises:
        DataError: if a file is missing or damaged, or a row is not of the form that is converted.
    """
    parts: dict[str | None, dict[str, list[Row]]] = {}
    for split in source.files:
        for row in source.convert(
            [row for stem in source.stems(split) for row in read_rows(data_file(data_dir, stem))]
        ):
            part = None if source.part is None else source.part(row)
            parts.setdefault(part, {}).setdefault(split, []).append(row)
    return parts


def run_tasks(
    backend: Backend,
    names: Sequence[str],
    *,
    data_dir: str | Path | None,
    limit: int | None = None,
    shots: int | None = None,
    max_new_tokens: int | None = None,
    batch_size: int = 8,
    seed: int = 1234,
) -> HarnessResult:
    """Run tasks of lm-eval on a model as it is, adapters switched on included; no merge is needed.

    A model in this process is asked by lm-eval's own class for such models, so that numbers are those of its command.

    Args:
        backend: the model.
        names: tasks and groups of `SOURCES`.
        data_dir: folder laid out as `NAME/SPLIT.jsonl.gz`; None takes the hub's rows.
        limit: documents per task, and per member of a group; None for all.
        shots: examples before each question; None takes the task's own number.
        max_new_tokens: most tokens of an answer; None takes the task's own number.
        batch_size: sequences of one forward pass.
        seed: of the choice of examples (lm-eval's default), and of language detection in IFEval.

    Raises:
        ConfigError, DataError: as `check_tasks`.
    """
    check_tasks(names, data_dir)
    from lm_eval import evaluator

    with ifeval.ifeval_support(data_dir, seed) if ifeval.TASK in names else nullcontext():
        found = evaluator.simple_evaluate(
            model=_asked(backend, batch_size),
            tasks=[_stock(name) if data_dir is None else _built(name, Path(data_dir)) for name in names],
            task_manager=task_manager(),
            num_fewshot=shots,
            limit=limit,
            log_samples=True,
            bootstrap_iters=RESAMPLES,
            fewshot_random_seed=seed,
            gen_kwargs=None if max_new_tokens is None else {"max_gen_toks": max_new_tokens},
        )
    assert found is not None  # only other processes than the first get nothing
    return _result(found, names)


def _asked(backend: Backend, batch_size: int) -> Any:
    from farss.evaluation.harness_model import BackendModel, CountingModel  # they load lm-eval

    if isinstance(backend, TorchBackend):
        made: Any = CountingModel  # its decorator hides its parameters from type checkers
        return made(pretrained=backend.model, tokenizer=backend.tokenizer, batch_size=batch_size)
    return BackendModel(backend, batch_size)


def _built(name: str, data_dir: Path) -> Any:
    """lm-eval's own task or group with rows given by us."""
    source = SOURCES[name]
    read = functools.cache(lambda: rows_by_part(source, data_dir))

    def rows(config_source: str | None = None, **_: Any) -> Any:
        from datasets import Dataset, DatasetDict

        part = None if source.part is None else _configuration(config_source)
        if part not in read():
            raise DataError("the data of a task have no rows of one part", where=f"lm-eval task {name}", expected=part)
        return DatasetDict({split: Dataset.from_list(found) for split, found in read()[part].items()})

    absent = {key: None for key, split in SPLITS.items() if split not in source.files}
    settings = {"custom_dataset": rows, "dataset_kwargs": {}, **absent, **source.settings}
    # The manager's own `load` lays settings over a task, but not over the members of a group.
    manager = task_manager()
    return manager._factory.build(manager.task_index[name], overrides=settings, registry=manager.task_index)


def _configuration(definition: str | None) -> str:
    """The hub's configuration that lm-eval's definition of a group's member names."""
    if definition is None:
        raise ConfigError("this lm-eval does not say which member of a group asks", do="install a newer lm-eval")
    return _definition(definition)["dataset_name"]


def _definition(file: str | Path | None) -> dict[str, Any]:
    """A task's own definition, its functions not looked up; nothing where there is no file."""
    from lm_eval.tasks._yaml_loader import load_yaml  # the definitions have tags that plain YAML does not know

    return {} if file is None else load_yaml(file, resolve_func=False)


def _result(found: Mapping[str, Any], names: Sequence[str]) -> HarnessResult:
    members, counts = found.get("group_subtasks", {}), found["n-samples"]

    def below(name: str) -> list[str]:
        return [name, *(each for child in members.get(name, ()) for each in below(child))]

    def documents(name: str) -> int:
        return sum(counts[each]["effective"] for each in below(name) if each in counts)

    everything = [each for name in names for each in below(name)]
    tasks = [each for each in everything if each in counts]
    return HarnessResult(
        scores={each: _scores(found["results"][each], documents(each)) for each in everything},
        versions={each: found["versions"].get(each) for each in tasks},
        samples={each: found["samples"][each] for each in tasks},
    )


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
