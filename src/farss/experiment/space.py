"""What a verb is going to write, from shapes that are known before any weights are loaded, held against the disk.

Only what grows with the model is counted: adapters and what they start from, whole models, statistics, checkpoints,
hidden states and spectra. Samples, plans and pages are small; `LEAST_BYTES` stands for them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import nn

from farss.amounts import size
from farss.config import FarssConfig, ModelConfig, Recipe, TrainConfig
from farss.experiment.initialisation.outlook import ChosenEngine, Outlook, outlook
from farss.experiment.initialisation.planning import resolved, spectrum_folder
from farss.experiment.jobs import Job
from farss.methods import get_method
from farss.methods.base import SpectralMethod
from farss.methods.factored import FactorMethod
from farss.methods.statistics import statistics_of
from farss.model.blocks import BlockChain
from farss.model.calibration import Batch
from farss.model.checkpoint import check_folder, stored_numbers
from farss.model.lazy import skeleton, stored_dtype
from farss.model.plan import Plan
from farss.model.sources import resolve
from farss.model.targets import Target, find_targets
from farss.storage.disk import CACHE_FULL, LEAST_BYTES, require_space, standing

Parts = dict[str, int]
"""Bytes by what they are."""

NUMBER = torch.float32.itemsize
"""Bytes of a learned number, in memory and on disk."""
CHECKPOINT_NUMBERS = 3
"""A checkpoint holds a learned number, and two averages of it that the optimiser keeps."""
CHECKPOINTS = 2
"""The newest is whole before the one before it is removed."""
WITH_START = 3
"""An adapter whose start is subtracted is kept as what is learned, what it started from, and both joined."""
JOINED = 2
"""Exported as a plain LoRA, such an adapter has twice the rank."""


def check_space(out: str | Path, parts: Parts, spectra: int = 0) -> None:
    """Refuse to begin what the disks of the output and of the cache cannot hold.

    Args:
        out: the folder to be filled, there or not.
        parts: what goes there.
        spectra: bytes of decompositions, kept in the cache beside what it holds already.

    Raises:
        ResourceError: naming the disk, what is needed and for what, and what is free.
    """
    place, cache = Path(out), spectrum_folder()
    new = max(spectra - held_bytes(cache), 0)
    if new and standing(place).stat().st_dev == standing(cache).stat().st_dev:
        parts = parts | {"the spectra in the cache": new}
    elif new:
        require_space(cache, new, "the spectra of the model's weights", CACHE_FULL)
    needed = {what: count for what, count in parts.items() if count}
    listed = ", ".join(f"{what} ({size(count)})" for what, count in needed.items())
    require_space(place, LEAST_BYTES + sum(needed.values()), listed or "the smallest result")


def held_bytes(place: Path) -> int:
    """Bytes of the files under a folder, which need not be there."""
    return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())


def learned_numbers(targets: Sequence[Target], method: str, recipe: Recipe) -> int:
    """About how many numbers a method trains: its ranks are known only when it has seen its evidence."""
    config, found = resolved(recipe.init), get_method(method)
    if recipe.match == "params" and recipe.budget_params:
        return recipe.budget_params
    divided = recipe.match == "rank" and isinstance(found, SpectralMethod) and found.shallow_rank != "deep"
    shallow = config.shallow_layers or 0 if divided else 0
    return sum(
        min(config.r_avg if target.layer is not None and target.layer < shallow else config.rank, *target.shape)
        * sum(target.shape)
        for target in targets
    )


def adapter_bytes(learned: int, method: str, config: FarssConfig) -> int:
    """Of an adapter's folder, by how many numbers it learns."""
    found = get_method(method)
    with_start = isinstance(found, SpectralMethod | FactorMethod) and config.base == "reference"
    return NUMBER * learned * (WITH_START if with_start and isinstance(found, SpectralMethod) else 1)


def checkpoint_bytes(learned: int, config: TrainConfig, rows: int, most: int = CHECKPOINTS) -> int:
    """Of the checkpoints, at most so many, that lie side by side in a training of so many rows."""
    if config.save_steps is None:
        return 0
    steps = math.ceil(config.epochs * math.ceil(rows / config.batch_size))
    return CHECKPOINT_NUMBERS * NUMBER * learned * min(steps // config.save_steps, most)


def spectra_bytes(targets: Sequence[Target], dtype: torch.dtype) -> int:
    """Of the decompositions of all targets: k singular values and k directions of k numbers each."""
    width = max(dtype.itemsize, NUMBER)
    return width * sum(k * (k + 1) for k in (min(target.shape) for target in targets))


def statistics_bytes(seen: Outlook, methods: Iterable[str], config: FarssConfig) -> Parts:
    """Of the files of statistics that these methods are planned from, where the model is in memory."""
    needed = statistics_of(map(get_method, methods)).values()
    return {one.what: one.memory(seen.targets, seen.dtype, config) for one in needed}


def state_bytes(seen: Outlook, batches: Sequence[Batch]) -> int:
    """Of the hidden states between blocks that a walk keeps, and of one gradient of them."""
    boundaries = len(BlockChain(seen.model, seen.targets)) + 1
    tokens = sum(batch.input_ids.numel() for batch in batches)
    width = seen.model.get_input_embeddings().weight.shape[1]  # type: ignore[operator] # transformers' PreTrainedModel
    return boundaries * tokens * width * seen.dtype.itemsize


def init_space(
    recipe: Recipe, method: str, given: Plan | None, engine: ChosenEngine, seen: Outlook, batches: Sequence[Batch]
) -> tuple[Parts, int]:
    """What `farss init` writes, and of spectra.

    Args:
        recipe: init settings.
        method: that is planned, unless a plan is given.
        given: the plan to obey.
        engine: that will be used.
        seen: the model's outlook.
        batches: all that will be read; empty where no data are.
    """
    config = resolved(recipe.init)
    name = given.method if given else method
    learned = given.trainable_parameters if given else learned_numbers(seen.targets, method, recipe)
    parts = {"the adapter": adapter_bytes(learned, name, config)}
    if isinstance(get_method(name), FactorMethod):
        parts["its start factors"] = NUMBER * learned
    if batches and engine == "resident":
        parts |= statistics_bytes(seen, [method], config)
    elif batches:
        parts["hidden states"] = state_bytes(seen, batches)
    return parts, spectra_bytes(seen.targets, seen.dtype) if "spectrum" in get_method(name).needs else 0


def shard_space(recipe: Recipe, method: str) -> Parts:
    """What `farss init --shard` writes: the sums of its rows that a method is planned from.

    Raises:
        ModelError: if the model has no module to adapt.
    """
    seen = outlook(recipe)
    return statistics_bytes(seen, [method], resolved(recipe.init))


def train_space(init: Path, config: TrainConfig, rows: int, held: Path) -> Parts:
    """What `farss train` writes: as much as the adapter it begins with, and checkpoints.

    Args:
        init: the folder of that adapter.
        config: of the training.
        rows: that are trained on.
        held: the folder of its checkpoints, with those of an earlier call.
    """
    adapter = held_bytes(init)
    plan = init / "plan.json"
    learned = Plan.load(plan).trainable_parameters if plan.is_file() else adapter // NUMBER
    return {
        "the adapter": adapter,
        "checkpoints": max(checkpoint_bytes(learned, config, rows) - held_bytes(held), 0),
    }


def run_space(recipe: Recipe, jobs: Sequence[Job], planned: bool, rows: int) -> tuple[Parts, int]:
    """What is left for `farss run` to write, and of spectra.

    Args:
        recipe: of the run.
        jobs: that are not trained yet.
        planned: whether the statistics are taken and the plans made.
        rows: that are trained on.

    Raises:
        ModelError: if the model has no module to adapt.
    """
    if not any(job.adapts for job in jobs):
        stored, numbers = stored_shape(recipe.model)
        return jobs_bytes(recipe, jobs, Shapes((), numbers, stored), rows), 0
    seen = outlook(recipe)
    needs = frozenset[str]().union(*(get_method(job.method).needs for job in jobs))
    parts = {} if planned else statistics_bytes(seen, [job.method for job in jobs], resolved(recipe.init))
    parts |= jobs_bytes(recipe, jobs, Shapes.of(seen.model, seen.targets, seen.dtype), rows)
    return parts, spectra_bytes(seen.targets, seen.dtype) if "spectrum" in needs else 0


def glue_space(recipe: Recipe, jobs: Sequence[Job]) -> tuple[Parts, int]:
    """What is left for `farss glue` to write, and of spectra: it keeps no checkpoints and no statistics.

    Args:
        recipe: of the run.
        jobs: that are not done yet, of all tasks.

    Raises:
        ModelError: if the encoder has no module to adapt.
    """
    named, config = recipe.model, resolved(recipe.init)
    folder = resolve(named.name, named.revision)
    model, kind = skeleton(folder, "float32", classifier=True, trust_remote_code=named.trust_remote_code)
    adapting = any(job.adapts for job in jobs)
    targets = find_targets(model, config.targets, config.exclude, in_memory=False) if adapting else []
    needs = frozenset[str]().union(*(get_method(job.method).needs for job in jobs))
    parts = jobs_bytes(recipe, jobs, Shapes.of(model, targets, kind), rows=0)
    return parts, spectra_bytes(targets, kind) if "spectrum" in needs else 0


@dataclass(frozen=True)
class Shapes:
    """What of a model tells how much is written: its targets, how many weights it has, and their dtype."""

    targets: Sequence[Target]
    weights: int
    dtype: torch.dtype

    @classmethod
    def of(cls, model: nn.Module, targets: Sequence[Target], dtype: torch.dtype) -> Self:
        """Those of a model, with or without its weights."""
        return cls(targets, sum(parameter.numel() for parameter in model.parameters()), dtype)


def jobs_bytes(recipe: Recipe, jobs: Sequence[Job], shapes: Shapes, rows: int) -> Parts:
    """Of what these jobs leave when they are trained on so many rows."""
    parts: Parts = dict.fromkeys(("adapters", "models", "checkpoints"), 0)
    beside = 0
    for job in jobs:
        own = job.recipe(recipe)
        learned = learned_numbers(shapes.targets, job.method, own) if job.adapts else shapes.weights
        newest = checkpoint_bytes(learned, own.train, rows, most=1)
        beside = max(beside, checkpoint_bytes(learned, own.train, rows) - newest)
        parts["checkpoints"] += newest
        if job.adapts:
            exported = JOINED * NUMBER * learned
            parts["adapters"] += adapter_bytes(learned, job.method, resolved(own.init)) * (rows > 0) + exported
        else:
            parts["models"] += shapes.weights * shapes.dtype.itemsize
    parts["checkpoints"] += beside
    return parts


def export_space(adapter: Path, to: str, numbers: int, dtype: torch.dtype) -> Parts:
    """What `farss export` writes.

    Args:
        adapter: the folder of the adapter.
        to: the form.
        numbers: weights of the base.
        dtype: that a whole model is written in.
    """
    whole = numbers * dtype.itemsize if to in ("merged", "residual") else 0
    factors = 0 if to == "merged" else held_bytes(adapter) * JOINED // WITH_START
    return {"the model": whole, "the adapter": factors}


def stored_shape(named: ModelConfig) -> tuple[torch.dtype, int]:
    """The dtype that a model is stored in, and how many numbers; only headers are read.

    Raises:
        ModelError: if it is not found, or its folder is damaged.
    """
    folder = resolve(named.name, named.revision)
    check_folder(folder, trust_remote_code=named.trust_remote_code)
    return stored_dtype(folder, trust_remote_code=named.trust_remote_code), stored_numbers(folder)
