"""`farss inspect`: what the task asks of a model, how steadily that is known, and what an adapter would cost."""

from __future__ import annotations

import dataclasses
import datetime
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from farss.config import FarssConfig, Recipe
from farss.errors import ConfigError, ResourceError
from farss.experiment import materials
from farss.experiment.accounts import describe_model
from farss.experiment.calibrating import calibration_of
from farss.experiment.environment import device, peak_bytes, versions
from farss.experiment.initialisation.outlook import Outlook, outlook
from farss.experiment.initialisation.planning import check_boundary, resolved, spectrum_folder
from farss.experiment.initialisation.sharding import shard_batches, take_statistics
from farss.experiment.initialisation.statistics import Shard
from farss.experiment.inspection import portrait
from farss.experiment.progress import ProgressLine
from farss.experiment.steps import RECIPE, require_new
from farss.maths.energy import eigenvalue_share, energy_share
from farss.methods import get_method
from farss.methods.base import Evidence, RankCapWarning
from farss.model.calibration import Example
from farss.model.checkpoint import load_tokenizer
from farss.model.cost import MemoryCost, choose_engine, format_bytes
from farss.model.curvature import Curvature
from farss.model.devices import free_bytes
from farss.model.plan import Plan
from farss.model.sources import LoadedModel, resolve
from farss.model.spectra import SpectrumCache
from farss.model.targets import Target, find_targets, weight_matrix
from farss.model.timing import TimeCost, calibrate, predict
from farss.report.inspection import SCHEMA_VERSION, write_inspection
from farss.storage import held, new_folder

HALVES = (Shard(1, 2), Shard(2, 2))
Announce = Callable[[dict[str, Any]], None]


def inspect(
    recipe: Recipe,
    out: str | Path,
    engine: Literal["auto", "resident"] = "auto",
    *,
    announce: Announce | None = None,
) -> dict[str, Any]:
    """Look at a model through a task; leaves `inspect.html`, `inspect.json` and the recipe.

    The statistics are taken in two halves of the calibration examples, whose sum is the whole, so that one pass over
    the data also tells how much the choice of directions depends on which examples were drawn. `init.max_batches`
    bounds each half. A call that was interrupted goes on where it stopped when it is made again.

    Args:
        recipe: model, data and init settings.
        out: a new folder.
        engine: "auto" refuses a model that does not fit in memory, "resident" tries it.
        announce: called with the predicted memory and time before the model is loaded.

    Returns:
        The content of `inspect.json`.

    Raises:
        ConfigError: if `out` is not empty, or `compat` is "published-code", whose examples cannot be divided.
        DataError: if rows are missing or lack fields, or there is one only.
        PlanError: if the boundary does not fit the model.
        ResourceError: if the model does not fit in memory; nothing was loaded.
        StorageError: if `out` cannot be written, or another process inspects there.
    """
    if recipe.init.compat == "published-code":
        raise ConfigError(
            "the published code takes the first examples as they come, so they cannot be divided in halves",
            where="init.compat",
            do="inspect without compat",
        )
    require_new(out)
    materials.training_rows(recipe)
    started = time.perf_counter()
    tokenizer = load_tokenizer(resolve(recipe.model.name, recipe.model.revision), recipe.model.trust_remote_code)
    examples = calibration_of(recipe, tokenizer)
    queue = [batch for shard in HALVES for batch in shard_batches(recipe, tokenizer, examples, shard)]
    seen = outlook(recipe, max(batch.input_ids.numel() for batch in queue))
    memory = doubled(seen.resident)
    require_resident(memory, seen.streamed, engine, free_bytes(seen.device))
    check_boundary(seen.targets, resolved(recipe.init), [portrait.METHOD])
    predicted = _predicted(recipe, seen, memory, sum(batch.tokens for batch in queue))
    if announce is not None:
        announce(predicted)
    work = Path(out).with_name(f".{Path(out).name}.work")
    with held(work):
        found = _look(recipe, examples, work)
        report = _report(recipe, found, predicted, time.perf_counter() - started)
        with new_folder(out) as folder:
            write_inspection(report, folder)
            (folder / RECIPE).write_text(recipe.to_yaml(), encoding="utf-8")
    shutil.rmtree(work)
    return report


def doubled(cost: MemoryCost) -> MemoryCost:
    """The memory of an initialisation with the moments of two halves kept apart."""
    return dataclasses.replace(cost, moments=len(HALVES) * cost.moments)


def require_resident(memory: MemoryCost, streamed: MemoryCost | None, engine: str, available: int) -> None:
    """Refuse a model that does not fit in memory as a whole.

    Raises:
        ResourceError: with the numbers of both engines.
    """
    if engine == "auto" and choose_engine(memory, streamed, available) == "streamed":
        assert streamed is not None, "only a model that can be walked is streamed"
        raise ResourceError(
            "the model does not fit in memory, and an inspection needs it there as a whole",
            expected=f"{format_bytes(memory.peak)} (an initialisation block by block: {format_bytes(streamed.peak)})",
            do="lower init.batch_tokens, use a machine with more memory, or initialise without an inspection",
        )


@dataclass
class Found:
    """What a look at a model found, before it is put into words.

    Attributes:
        loaded: the model.
        targets: its modules.
        whole: scores of all examples.
        halves: scores of each half.
        inputs: module name -> module whose input it shares.
        counts: tokens, supervised tokens and sequences of each half.
        energy_weights: module name -> share of the five largest squared singular values.
        energy_inputs: module name of an input -> the same of its hidden states, None where they were not kept.
        seconds: measured, by the parts of `TimeCost`.
        decomposed: weights that were not in the cache.
    """

    loaded: LoadedModel
    targets: list[Target]
    whole: Evidence
    halves: tuple[Evidence, Evidence]
    inputs: dict[str, str]
    counts: list[dict[str, int]]
    energy_weights: dict[str, float] = field(default_factory=dict)
    energy_inputs: dict[str, float | None] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    decomposed: int = 0


def _look(recipe: Recipe, examples: list[Example], work: Path) -> Found:
    config = resolved(recipe.init)
    loaded = materials.load_for_statistics(recipe)
    targets = find_targets(loaded.model, config.targets, config.exclude)
    started = time.perf_counter()
    parts: list[Curvature] = []
    for shard in HALVES:
        with ProgressLine(f"statistics of half {shard.number}/{shard.count}") as line:
            kept = work / f"half-{shard.number}.safetensors"
            curvature, origin = take_statistics(recipe, loaded, shard, kept, line, examples)
            parts.append(curvature)
    seconds = time.perf_counter() - started
    counts = [{"tokens": p.tokens, "supervised": p.supervised, "rows": p.sequences} for p in parts]
    one, two, whole = (Evidence(loaded.fingerprint, data=origin.data) for _ in range(3))
    found = Found(loaded, targets, whole, (one, two), parts[0].inputs, counts)
    with ProgressLine(f"spectra and scores of {len(targets)} modules") as line:
        _score(found, parts, config, line)
    found.seconds["statistics"] = seconds
    return found


def _score(found: Found, parts: Sequence[Curvature], config: FarssConfig, progress: ProgressLine) -> None:
    """Score every module by each half and by both, and measure how concentrated its spectra are."""
    cache = SpectrumCache(spectrum_folder())
    decomposing = 0.0
    began = time.perf_counter()
    for number, target in enumerate(found.targets):
        started = time.perf_counter()
        spectrum = cache.get(target, config.route)
        decomposing += time.perf_counter() - started
        weight = weight_matrix(target)
        pairs = [part.pair(target.name, weight) for part in parts]
        for evidence, pair in zip(found.halves, pairs, strict=True):
            evidence.score(target, spectrum, pair)
        first, second = (_together(parts, moments) for moments in zip(*pairs, strict=True))
        found.whole.score(target, spectrum, (first, second))
        found.energy_weights[target.name] = energy_share(spectrum.sigma)
        leader = found.inputs[target.name]
        if leader not in found.energy_inputs:
            states = [moment for part in parts if (moment := part.input_moment(leader)) is not None]
            found.energy_inputs[leader] = eigenvalue_share(_together(parts, states)) if states else None
        progress(number + 1, len(found.targets))
    found.seconds["decomposition"] = decomposing
    found.seconds["scoring"] = time.perf_counter() - began - decomposing
    found.decomposed = cache.decomposed


def _together(parts: Sequence[Curvature], means: Sequence[Tensor]) -> Tensor:
    """The mean over all tokens, from the means over each part's."""
    total = sum(part.tokens for part in parts)
    weighted = [mean * (part.tokens / total) for part, mean in zip(parts, means, strict=True)]
    return weighted[0] + weighted[1]


def _plans(found: Found, config: FarssConfig) -> tuple[Plan, Plan, Plan]:
    method = get_method(portrait.METHOD)
    whole = method.plan(found.targets, found.whole, config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankCapWarning)  # said once, of the whole
        one, two = (method.plan(found.targets, half, config) for half in found.halves)
    return whole, one, two


def _report(recipe: Recipe, found: Found, predicted: dict[str, Any], seconds: float) -> dict[str, Any]:
    config = resolved(recipe.init)
    plans = _plans(found, config)
    rows = [
        portrait.describe_target(
            target,
            found.whole,
            planned,
            (found.energy_weights[target.name], found.energy_inputs[found.inputs[target.name]]),
        )
        for target, planned in zip(found.targets, zip(*(plan.targets for plan in plans), strict=True), strict=True)
    ]
    layers = portrait.describe_layers(rows, found.inputs)
    stability = portrait.describe_stability(rows, [count["tokens"] for count in found.counts])
    model = describe_model(found.loaded, found.targets)
    return {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "model": model | {"dtype": str(found.loaded.dtype).removeprefix("torch.")},
        "data": {"task": recipe.data.task, **(found.whole.data or {}), "halves": found.counts},
        "method": portrait.METHOD,
        "modules": len(rows),
        "score_share": portrait.HELD_SHARE,
        "boundary": portrait.describe_boundary(found.targets, layers, config),
        "stability": stability,
        "warnings": portrait.warnings_of(stability),
        "layers": layers,
        "targets": rows,
        "spectra": portrait.describe_spectra(plans[0], found.targets, found.whole),
        "costs": portrait.cost_table(plans[0], model["parameters"], found.loaded.dtype),
        "predicted": predicted,
        "measured": {
            "peak_bytes": peak_bytes(),
            "seconds": found.seconds | {"total": seconds},
            "decomposed": found.decomposed,
        },
        "recipe": recipe.to_mapping(),
        "versions": versions(),
        "device": device(recipe.device),
    }


def _predicted(recipe: Recipe, seen: Outlook, memory: MemoryCost, tokens: int) -> dict[str, Any]:
    """Memory and time of this inspection, and memory of an initialisation by either engine, as JSON."""
    cost = predict(seen.model, seen.targets, seen.dtype, tokens, calibrate(seen.dtype, recipe.init.route, seen.device))
    return {
        "tokens": tokens,
        "device": str(seen.device),
        "peak_bytes": memory.peak,
        "memory": {
            "inspect": _bytes(memory),
            "resident": _bytes(seen.resident),
            "streamed": None if seen.streamed is None else _bytes(seen.streamed),
        },
        "seconds": _seconds(cost),
    }


def _bytes(cost: MemoryCost) -> dict[str, int]:
    return {**dataclasses.asdict(cost), "peak": cost.peak}


def _seconds(cost: TimeCost) -> dict[str, float]:
    return {**dataclasses.asdict(cost), "total": cost.total}
