"""The steps of a run, one by one, for `farss init`, `train` and `export`.

Each leaves a folder that the next one reads, with the recipe beside it, so that a folder says how it was made.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from farss.adapters.export import RESIDUAL_BASE, Form, export
from farss.adapters.files import base_name_of, load_adapter
from farss.config import Dtype, ModelConfig, Recipe
from farss.errors import AdapterError, ConfigError
from farss.experiment import materials
from farss.experiment.arithmetic import settle
from farss.experiment.dating import date_in, dated
from farss.experiment.fetched import Inputs
from farss.experiment.fitting import ADAPTER, Rows, fit, how_it_went, keep_learned
from farss.experiment.outputs import begin_again, check_new_output, check_output, inputs_on_disk, rescued
from farss.experiment.space import check_space, export_space, stored_shape, train_space
from farss.model.ends import taught_beside
from farss.model.sources import load
from farss.processes import require_one_process
from farss.storage import held, write_atomically, write_json
from farss.storage.owned import take, writing
from farss.storage.places import keep_apart
from farss.training.checkpoints import check_settings
from farss.training.readiness import check_training

RECIPE = "recipe.yaml"
VERB, CHECKPOINTS, ACCOUNT = "train", "checkpoints", "train.json"
"""`farss train`, and what it writes in its folder beside the recipe."""
SOURCES = {"model": ("name", "revision"), "data": ("task", "data_dir", "subset", "split", "test", "template")}
"""The settings that name a model, rows or a file."""
ADAPTER_FORMS = ("peft", "portable")
PROCESSORS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
"""What a model of images or sounds is used with, by the names of transformers."""


def recipe_of(folder: str | Path) -> Recipe:
    """The recipe a folder of `farss init` or `farss train` was made with.

    Whether code of the model may run is not taken from there: the folder, and so the recipe, may be anybody's.

    Raises:
        ConfigError: if there is none, or it cannot be read.
    """
    path = Path(folder) / RECIPE
    if not path.exists():
        raise ConfigError("not a folder made by `farss init`", where=folder, expected=f"{RECIPE} in it")
    return Recipe.from_yaml(path).override({"model.trust_remote_code": False})


def sources_of(recipe: Recipe) -> dict[str, str]:
    """What a recipe makes farss read, by the settings that say so; what is not set is left out."""
    tree = recipe.to_mapping()
    named = {f"{group}.{key}": tree[group][key] for group, keys in SOURCES.items() for key in keys}
    return {key: value for key, value in named.items() if value is not None}


def require_adapter(folder: str | Path) -> None:
    """Refuse an adapter folder that is not there, before a model is loaded.

    Raises:
        AdapterError: if it is not.
    """
    if not Path(folder).is_dir():
        raise AdapterError("the adapter folder does not exist", where=folder, do="check the path")


def fine_tune(recipe: Recipe, init: str | Path, out: str | Path, *, fresh: bool = False) -> dict[str, Any]:
    """Train an initialised adapter; leaves `adapter/`, the checkpoints and `train.json`.

    Args:
        recipe: data and train settings, and the model that the adapter was initialised for.
        init: a folder of `farss init`.
        out: new, empty, or of the same training, which then goes on from its last checkpoint.
        fresh: remove what an earlier call left in the folder, and begin again.

    Raises:
        ConfigError: if `out` holds a finished training.
        OutputError: if `out` holds something else.
        AdapterError: if the adapter is missing or belongs to another base model.
        DataError: if rows are missing, lack fields, or keep no response token.
        NumericalError: if the loss becomes NaN.
    """
    require_one_process("farss train")
    read = inputs_on_disk(recipe) | {"the initialised adapter": init}
    place = check_output(VERB, out, read, (RECIPE, ADAPTER, ACCOUNT), fresh=fresh)
    if not fresh and (place / ADAPTER).exists():
        raise ConfigError(
            "this folder holds a finished training", where=place, do="choose another --out, or give --fresh"
        )
    require_adapter(Path(init) / ADAPTER)
    asked = recipe = dated(Inputs.of(recipe), None if fresh else date_in(place / RECIPE), date_in(Path(init) / RECIPE))
    check_training(recipe.train)
    rows = Rows.of(recipe, materials.tokenizer_of(recipe))  # what is wrong with a row is said now
    check_space(place, train_space(Path(init) / ADAPTER, recipe.train, len(rows.examples), place / CHECKPOINTS))
    recipe, decided = settle(asked)
    if not fresh:
        check_settings(place / CHECKPOINTS, recipe.train)
    loaded = materials.load_model(recipe)
    model = load_adapter(
        loaded.model,
        Path(init) / ADAPTER,
        dropout=recipe.train.dropout,
        trainable=True,
        fingerprint=loaded.fingerprint,
    )
    with held(place):
        begin_again(place, fresh)
        take(place, VERB)
        with writing(place, RECIPE):
            write_atomically(place / RECIPE, lambda file: file.write_text(asked.to_yaml(), encoding="utf-8"))
        account = _trained(recipe, model, loaded.tokenizer, rows, place)
        account |= {"arithmetic": decided.to_mapping(), "rows": rows.account}
        with rescued(account), writing(place, ACCOUNT):
            write_json(place / ACCOUNT, account)
    return account


def _trained(recipe: Recipe, model: nn.Module, tokenizer: Any, rows: Rows, place: Path) -> dict[str, Any]:
    """Train, write the adapter, and return the account of it."""
    report = fit(model, tokenizer, rows, recipe.train, place / CHECKPOINTS)
    with writing(place, ADAPTER):
        keep_learned(recipe, model, tokenizer, place)
    return {
        "steps": report.steps,
        "seconds": report.seconds,
        "tokens_per_second": report.tokens_per_second,
        "peak_bytes": report.peak_bytes,
        "first_loss": report.curve[0][1],
        "last_loss": report.curve[-1][1],
        "adapter": str(place / ADAPTER),
        **how_it_went(report),
    }


def base_recipe(adapter: str | Path, model: str | None = None) -> Recipe:
    """How the base of an adapter is loaded: by the recipe beside the adapter, where that is of the same model.

    Args:
        adapter: the folder of an adapter.
        model: the base, where it is named; None takes what the adapter calls it.

    Raises:
        AdapterError: if the adapter is missing or does not name its base.
        ConfigError: if the recipe cannot be read.
    """
    require_adapter(adapter)
    name, beside = model or base_name_of(adapter), Path(adapter).resolve().parent
    if (beside / RECIPE).is_file():
        recipe = recipe_of(beside)
        if name == recipe.model.name or Path(name).expanduser() == Path(recipe.model.name).expanduser():
            return recipe
    return Recipe().override({"model.name": name})


def _copy_processors(source: Path, folder: Path) -> None:
    """Put what prepares images and sounds for a model beside a copy of the model."""
    for name in PROCESSORS:
        if (source / name).is_file():
            write_atomically(folder / name, functools.partial(shutil.copyfile, source / name))


def export_adapter(
    adapter: str | Path,
    out: str | Path,
    to: Form,
    base: ModelConfig | None = None,
    rank: int | None = None,
    *,
    dtype: Dtype = "checkpoint",
) -> dict[str, Any]:
    """Write a trained adapter in a form other tools load, and check its outputs.

    Args:
        adapter: the folder of a trained adapter.
        out: a new folder.
        to: the form.
        base: the base model; None takes that of `base_recipe`.
        rank: only for `portable`: the rank to recompress every module to.
        dtype: only for `merged`: of the weights.

    Raises:
        OutputError: if `out` is not empty, or part of what is read.
        ConfigError: if a rank is given for another form than `portable`.
        AdapterError: if the adapter is missing, damaged, or made for another base model.
        NumericalError: if the written files do not give the trained model's outputs.
    """
    require_one_process("farss export")
    check_new_output(out, {"the adapter": adapter, "the base model": base and base.name})
    if rank is not None and to != "portable":
        raise ConfigError("only the portable form is recompressed to a rank", got=f"--to {to} --rank {rank}")
    if rank is not None and rank < 1:
        raise ConfigError("the rank must be at least 1", got=rank)
    require_adapter(adapter)
    if dtype != "checkpoint" and to != "merged":
        raise ConfigError("only merged weights have a dtype of their own", got=f"--to {to} --dtype {dtype}")
    base = base or base_recipe(adapter).model
    keep_apart(out, {"the base model": base.name})
    stored, numbers = stored_shape(base)
    kind = stored if dtype == "checkpoint" else getattr(torch, dtype)
    check_space(out, export_space(Path(adapter), to, numbers, kind))
    # An adapter is checked in float32, where a wrong one cannot hide in the rounding of the base's own dtype; a whole
    # model is computed as the device does it fastest, and written in the checkpoint's dtype or the one asked for.
    loaded = load(base, dtype="float32" if to in ADAPTER_FORMS or dtype == "float32" else "auto")
    assert loaded.arithmetic is not None, "farss loaded the model"
    written = loaded.arithmetic.checkpoint if dtype == "checkpoint" else dtype
    trained = load_adapter(loaded.model, adapter, fingerprint=loaded.fingerprint)
    weights = None if to in ADAPTER_FORMS else getattr(torch, written)
    taught = taught_beside(adapter)
    report = export(trained, out, to=to, tokenizer=loaded.tokenizer, rank=rank, weights=weights, taught=taught)
    if to in ("merged", "residual") and loaded.folder is not None:
        _copy_processors(loaded.folder, Path(out) / (RESIDUAL_BASE if to == "residual" else ""))
    return {**dataclasses.asdict(report), "path": str(report.path)}
