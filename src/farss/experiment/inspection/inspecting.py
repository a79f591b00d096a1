"""`farss inspect`: what the task asks of a model, how steadily that is known, and what an adapter would cost."""

from __future__ import annotations

import dataclasses
import datetime
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from farss.config import FarssConfig, Recipe
from farss.errors import ConfigError
from farss.experiment import materials
from farss.experiment.arithmetic import settle
from farss.experiment.calibrating import calibration_of
from farss.experiment.dating import dated
from farss.experiment.environment import device, peak_bytes, versions
from farss.experiment.fetched import Inputs
from farss.experiment.initialisation.growing import GROWING
from farss.experiment.initialisation.halves import HALVES
from farss.experiment.initialisation.outlook import ChosenEngine, Engine, Outlook, for_halves, outlook
from farss.experiment.initialisation.planning import check_boundary, resolved
from farss.experiment.initialisation.settling import agreed, settles, sizes
from farss.experiment.initialisation.sharding import shard_batches
from farss.experiment.inspection import portrait
from farss.experiment.inspection.looking import Found, look, look_streamed
from farss.experiment.outputs import check_new_output, inputs_on_disk, rescued
from farss.experiment.space import check_space, spectra_bytes, state_bytes
from farss.experiment.steps import RECIPE
from farss.methods import get_method
from farss.methods.base import RankCapWarning
from farss.model.cost import MemoryCost
from farss.model.plan import Plan
from farss.model.timing import TimeCost
from farss.processes import require_one_process
from farss.report.inspection import SCHEMA_VERSION, write_inspection
from farss.storage import new_folder
from farss.storage.folders import work_folder

"""What is kept beside the page until it is done: the sums of each half."""
Announce = Callable[[dict[str, Any]], None]


def inspect(
    recipe: Recipe,
    out: str | Path,
    engine: Engine = "auto",
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
        engine: "resident" (the model in memory), "streamed" (one block of it at a time) or "auto" (streamed where the
            model does not fit).
        announce: called with the predicted memory and time before the model is loaded.

    Returns:
        The content of `inspect.json`.

    Raises:
        ConfigError: if `out` is not empty, or `compat` is "published-code", whose examples cannot be divided.
        DataError: if rows are missing or lack fields, or there is one only.
        PlanError: if the boundary does not fit the model.
        ResourceError: if the model fits neither way; nothing was loaded.
        NotAChain: if the streamed engine is asked for and the model cannot be walked.
        StorageError: if `out` cannot be written, or another process inspects there.
    """
    require_one_process("farss inspect")
    if recipe.init.compat == "published-code":
        raise ConfigError(
            "the published code takes the first examples as they come, so they cannot be divided in halves",
            where="init.compat",
            do="inspect without compat",
        )
    check_new_output(out, inputs_on_disk(recipe))
    asked = recipe = dated(Inputs.of(recipe))
    materials.training_rows(recipe)
    recipe, decided = settle(asked, piecewise=engine != "resident")
    started = time.perf_counter()
    tokenizer = materials.tokenizer_of(recipe)
    examples = calibration_of(recipe, tokenizer)
    halves = [shard_batches(recipe, tokenizer, examples, shard) for shard in HALVES]
    queue = [batch for half in halves for batch in half[: recipe.init.max_batches]]
    seen = outlook(recipe, queue)
    chosen = for_halves(seen).choose(engine)
    states = state_bytes(seen, queue) if chosen == "streamed" else 0
    check_space(out, {"hidden states": states}, spectra_bytes(seen.targets, seen.dtype))
    check_boundary(seen.targets, resolved(recipe.init), [portrait.METHOD])
    steps = sizes(len(examples)) if settles(recipe) else [len(examples)]
    predicted = _predicted(recipe, seen, chosen, sum(batch.tokens for batch in queue), steps)
    if announce is not None:
        announce(predicted)
    with work_folder(out, GROWING) as work:
        found = (look_streamed if chosen == "streamed" else look)(recipe, examples, work)
        report = _report(recipe, found, predicted, time.perf_counter() - started)
        report["arithmetic"] = decided.to_mapping()
        with rescued(report), new_folder(out, "inspect") as folder:
            write_inspection(report, folder)
            (folder / RECIPE).write_text(asked.to_yaml(), encoding="utf-8")
    return report


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
    steady = agreed(found.targets, found.halves, config)
    stability = portrait.describe_stability(rows, [count["tokens"] for count in found.counts], steady)
    return {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "model": found.model | {"dtype": str(found.dtype).removeprefix("torch.")},
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
        "costs": portrait.cost_table(plans[0], found.model["parameters"], found.dtype),
        "predicted": predicted,
        "measured": {
            "peak_bytes": peak_bytes(),
            "seconds": found.seconds | {"total": seconds},
            "decomposed": found.decomposed,
            "restored": found.restored,
            "restored_rows": found.restored_rows,
        },
        "recipe": recipe.to_mapping(),
        "versions": versions(),
        "device": device(recipe.device),
    }


def _predicted(
    recipe: Recipe, seen: Outlook, engine: ChosenEngine, tokens: int, steps: Sequence[int]
) -> dict[str, Any]:
    """Memory and time of this inspection, and memory of an initialisation by either engine, as JSON.

    Args:
        recipe: model and init settings.
        seen: of the model.
        engine: that will be used.
        tokens: of all rows that may be read.
        steps: rows at each step; where the data decide how many are read, all steps are counted, and `least_seconds`
            is for the first alone.
    """
    memory = for_halves(seen).memory(engine)
    route = recipe.init.route
    most = sum(steps) / steps[-1] if engine == "streamed" else 1.0
    cost = seen.time(engine, round(most * tokens), route)
    first = dataclasses.replace(cost, statistics=cost.statistics * steps[0] / (most * steps[-1]))
    cost = dataclasses.replace(cost, scoring=len(steps) * cost.scoring)
    return {
        "tokens": tokens,
        "device": str(seen.device),
        "engine": engine,
        "peak_bytes": memory.peak,
        "memory": {
            "inspect": _bytes(memory),
            "resident": _bytes(seen.resident),
            "streamed": None if seen.streamed is None else _bytes(seen.streamed),
        },
        "seconds": _seconds(cost),
        "least_seconds": first.total if len(steps) > 1 else None,
    }


def _bytes(cost: MemoryCost) -> dict[str, int]:
    return {**dataclasses.asdict(cost), "peak": cost.peak}


def _seconds(cost: TimeCost) -> dict[str, float]:
    return {**dataclasses.asdict(cost), "total": cost.total}
