"""The steps of a run, one by one, for `farss init`, `train`, `export` and `eval`.

Each leaves a folder that the next one reads, with the recipe beside it, so that a folder says how it was made.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from farss.adapters.export import Form, export
from farss.adapters.files import base_name_of, load_adapter, save_adapter
from farss.config import ModelConfig, Recipe
from farss.errors import AdapterError, ConfigError
from farss.evaluation.backends import TorchBackend
from farss.evaluation.harness import PREFIX, HarnessResult, check_tasks, run_tasks
from farss.evaluation.records import Measurement
from farss.evaluation.scores import summarise
from farss.experiment import materials
from farss.experiment.environment import device, versions
from farss.experiment.measuring import SAMPLES, measure
from farss.experiment.progress import ProgressLine
from farss.experiment.work import rank_account
from farss.model.sources import load
from farss.storage import write_atomically, write_json
from farss.training.sft import train

RECIPE = "recipe.yaml"
HARNESS_SAMPLES = "lm-eval-samples.json"
ADAPTER_FORMS = ("peft", "portable")


def recipe_of(folder: str | Path) -> Recipe:
    """The recipe a folder of `farss init` or `farss train` was made with.

    Raises:
        ConfigError: if there is none.
    """
    path = Path(folder) / RECIPE
    if not path.exists():
        raise ConfigError("not a folder made by `farss init`", where=folder, expected=f"{RECIPE} in it")
    return Recipe.from_yaml(path)


def require_new(out: str | Path) -> None:
    """Refuse an output folder that holds something, before anything dear is done.

    Raises:
        ConfigError: if it does, or is a file.
    """
    path = Path(out)
    if path.is_dir() and any(path.iterdir()):
        raise ConfigError("the output folder is not empty", where=out, do="choose another --out, or remove it")
    if path.exists() and not path.is_dir():
        raise ConfigError("the output folder is a file", where=out, do="choose another --out")


def _require_adapter(folder: str | Path) -> None:
    if not Path(folder).is_dir():
        raise AdapterError("the adapter folder does not exist", where=folder, do="check the path")


def fine_tune(recipe: Recipe, init: str | Path, out: str | Path) -> dict[str, Any]:
    """Train an initialised adapter; leaves `adapter/`, the checkpoints and `train.json`.

    Raises:
        ConfigError: if `out` holds a finished training.
        AdapterError: if the adapter is missing or belongs to another base model.
        DataError: if rows are missing, lack fields, or keep no response token.
        NumericalError: if the loss becomes NaN.
    """
    place = Path(out)
    if (place / "adapter").exists():
        raise ConfigError("this folder holds a finished training", where=place, do="choose another --out")
    _require_adapter(Path(init) / "adapter")
    materials.training_rows(recipe)
    loaded = materials.load_model(recipe)
    examples = materials.training_examples(recipe, loaded.tokenizer)
    model = load_adapter(loaded.model, Path(init) / "adapter", dropout=recipe.train.dropout, trainable=True)
    write_atomically(place / RECIPE, lambda file: file.write_text(recipe.to_yaml(), encoding="utf-8"))
    with ProgressLine("training") as line:
        result = train(
            model,
            loaded.tokenizer,
            examples,
            recipe.train,
            place / "checkpoints",
            progress=lambda step, total, loss: line(step, total, f"loss {loss:.3f}"),
        )
    save_adapter(model, place / "adapter")
    account = {
        "steps": result.steps,
        "seconds": result.seconds,
        "tokens_per_second": result.tokens_per_second,
        "peak_bytes": result.peak_bytes,
        "first_loss": result.curve[0][1],
        "last_loss": result.curve[-1][1],
        "curve": [list(point) for point in result.curve],
        "adapter": str(place / "adapter"),
        **rank_account(result),
    }
    write_json(place / "train.json", account)
    return account


def export_adapter(
    adapter: str | Path, out: str | Path, to: Form, model: str | None = None, rank: int | None = None
) -> dict[str, Any]:
    """Write a trained adapter in a form other tools load, and check its outputs.

    Raises:
        ConfigError: if `out` is not empty, or a rank is given for another form than `portable`.
        AdapterError: if the adapter is missing, damaged, or made for another base model.
        NumericalError: if the written files do not give the trained model's outputs.
    """
    require_new(out)
    if rank is not None and to != "portable":
        raise ConfigError("only the portable form is recompressed to a rank", got=f"--to {to} --rank {rank}")
    if rank is not None and rank < 1:
        raise ConfigError("the rank must be at least 1", got=rank)
    _require_adapter(adapter)
    # An adapter is checked in float32, where a wrong one cannot hide in the rounding of the base's own dtype; a whole
    # model is written in the base's dtype, and so checked in it.
    dtype = "float32" if to in ADAPTER_FORMS else None
    loaded = load(ModelConfig(name=model or base_name_of(adapter)), dtype=dtype)
    trained = load_adapter(loaded.model, adapter)
    report = export(trained, out, to=to, tokenizer=loaded.tokenizer, rank=rank)
    return {**dataclasses.asdict(report), "path": str(report.path)}


def evaluate(
    recipe: Recipe, tasks: tuple[str, ...], out: str | Path, *, adapter: str | Path | None = None
) -> dict[str, Any]:
    """Score a model on knowledge sets, at most one task, and tasks of lm-eval; leaves `results.json` and the samples.

    Names that begin with `lm-eval:` are tasks of lm-eval, run by its own code on the rows of the data directory;
    `eval.task_rows` limits their documents.

    Raises:
        ConfigError: if no task, or more than one training task, is named, or `out` is not empty.
        DataError: if a set is missing, empty, or its rows lack fields.
        AdapterError: if the adapter is missing or belongs to another base.
    """
    from farss.datasets import describe

    kinds = {row["name"]: row["kind"] for row in describe()}
    foreign = [name.removeprefix(PREFIX) for name in tasks if name.startswith(PREFIX)]
    ours = [name for name in tasks if not name.startswith(PREFIX)]
    trained_on = [name for name in ours if kinds.get(name) == "task"]
    knowledge = tuple(name for name in ours if name not in trained_on)
    if not tasks or len(trained_on) > 1:
        raise ConfigError("name knowledge sets and at most one task", got=", ".join(tasks))
    if foreign:
        check_tasks(foreign, _data_dir(recipe))
    recipe = recipe.override(
        {"eval.knowledge": list(knowledge), **({"data.task": trained_on[0]} if trained_on else {})}
    )
    require_new(out)
    if adapter is not None:
        _require_adapter(adapter)
    materials.check_inputs(recipe, train=False, test=bool(trained_on))
    loaded = materials.load_model(recipe)
    model = load_adapter(loaded.model, adapter) if adapter else loaded.model
    model.eval()
    started = time.perf_counter()
    place, measurement = Path(out), Measurement()
    if ours:
        with ProgressLine("evaluating") as line:
            measurement = measure(
                recipe,
                TorchBackend(model, loaded.tokenizer),
                rows=None,
                words=True,
                task=bool(trained_on),
                progress=line,
            )
    measurement.save(place / SAMPLES)
    harness = None
    if foreign:
        limit = recipe.eval.task_rows
        harness = run_tasks(model, loaded.tokenizer, foreign, data_dir=_data_dir(recipe), limit=limit)
        write_json(place / HARNESS_SAMPLES, json.loads(json.dumps(harness.samples, default=str)))
    result = {
        "model": loaded.name,
        "adapter": str(adapter) if adapter else None,
        "scores": summarise(measurement) | (_harness_scores(harness) if harness else {}),
        "lm_eval_versions": harness.versions if harness else {},
        "seconds": time.perf_counter() - started,
        "versions": versions(),
        "device": device(),
        "recipe": recipe.to_mapping(),
        "path": str(place / "results.json"),
    }
    write_json(place / "results.json", result)
    return result


def _data_dir(recipe: Recipe) -> str:
    if recipe.data.data_dir is None:
        raise ConfigError("tasks of lm-eval take their rows from a data directory", do="name it with --data-dir")
    return recipe.data.data_dir


def _harness_scores(found: HarnessResult) -> dict[str, dict[str, Any]]:
    return {f"lm-eval/{task}/{metric}": score for task, row in found.scores.items() for metric, score in row.items()}
