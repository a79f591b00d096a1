"""`farss init`: statistics, plan and adapter, of a model in memory or block by block from the disk."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from farss.adapters.apply import apply
from farss.adapters.verify import logits, max_difference, sample_inputs
from farss.config import Recipe
from farss.datasets.dates import keep_date_
from farss.errors import ConfigError
from farss.experiment import materials
from farss.experiment.arithmetic import settle
from farss.experiment.calibrating import batches_of, calibration_of, calibration_rows, growth_of
from farss.experiment.dating import dated
from farss.experiment.environment import peak_bytes
from farss.experiment.fetched import Inputs
from farss.experiment.initialisation.budget import budget_of, plan_for
from farss.experiment.initialisation.crew import Crew, crew
from farss.experiment.initialisation.growing import GROWING, grow_streamed
from farss.experiment.initialisation.halves import Halved, HalvedBlocks
from farss.experiment.initialisation.outlook import (
    ChosenEngine,
    Engine,
    Forecast,
    Outlook,
    for_halves,
    for_method,
    forecast,
    outlook,
)
from farss.experiment.initialisation.planning import check_boundary, prepare, resolved, spectrum_folder
from farss.experiment.initialisation.request import Request, given_statistics
from farss.experiment.initialisation.settling import settles, sizes
from farss.experiment.initialisation.sharding import (
    partial,
    shard_batches,
    take_enough_statistics,
    take_statistics,
)
from farss.experiment.initialisation.statistics import (
    Origin,
    check_usable,
    load_statistics,
    save_statistics,
)
from farss.experiment.initialisation.streaming import StreamedModel, check_streamable, streamable
from farss.experiment.outputs import check_new_output, inputs_on_disk
from farss.experiment.progress import ProgressLine
from farss.experiment.space import check_space, init_space
from farss.methods import get_method
from farss.methods.base import Evidence
from farss.methods.statistics import CURVATURE
from farss.model.calibration import Batch, data_fingerprint
from farss.model.coverage import coverage
from farss.model.devices import place
from farss.model.plan import Plan
from farss.model.sources import LoadedModel
from farss.model.spectra import SpectrumCache
from farss.model.targets import find_targets
from farss.processes import processes, require_one_process
from farss.statistics.summed import Summed
from farss.storage import new_folder
from farss.storage.folders import work_folder, work_place

KEPT = ("partial*.safetensors", *GROWING)
"""What is kept beside the output until it is done: the sums so far."""


def initialise(
    recipe: Recipe,
    method: str,
    out: str | Path,
    *,
    plan_file: str | Path | None = None,
    engine: Engine = "auto",
    statistics: str | Path | None = None,
    announce: Callable[[Forecast], None] | None = None,
) -> dict[str, Any] | None:
    """Decide a plan, or obey one, and build its adapter; leaves `plan.json`, `adapter/`, statistics and recipe.

    Beside a plan that starts from factors of its own they are in `plan.safetensors`, here and where one is obeyed. A
    call that was interrupted, even killed, goes on where it stopped when it is made again with the same `out`.
    Processes started together by `torchrun` share the calibration examples and the decompositions of the resident
    engine; the first of them writes, the others return None.

    Args:
        recipe: model, data and init settings.
        method: a name of `farss methods` that trains an adapter.
        out: a new folder.
        plan_file: obey this plan; `method` and the data are then not used.
        engine: "resident" (the model in memory), "streamed" (one block of it at a time) or "auto" (streamed where the
            model does not fit and the method allows it).
        statistics: use these instead of the data, a file or folder of `farss init`, `farss run` or `farss merge-stats`.
        announce: called with what is expected to be needed, before the model is loaded.

    Raises:
        DataError: if the method needs data, and rows are missing or lack fields.
        PlanError: if the plan was made for another model, or its factors are not beside it.
        ConfigError: if the method has no adapter to initialise or cannot be streamed, or `out` is not empty.
        ResourceError: if the model fits neither way; nothing was loaded.
        NotAChain: if the streamed engine is asked for and the model cannot be walked.
        StorageError: if `out` cannot be written, or another process initialises there.
    """
    if processes() == 1:
        require_one_process("farss init")
    if plan_file is None and get_method(method).trains == "weights":
        raise ConfigError("this method trains the weights themselves; there is nothing to initialise", got=method)
    given = Plan.load(plan_file, start=True) if plan_file else None
    check_new_output(out, inputs_on_disk(recipe) | {"the plan": plan_file, "the statistics": statistics})
    asked = dated(Inputs.of(recipe))
    recipe, decided = settle(asked, piecewise=engine != "resident" and (given is not None or streamable(method)))
    kept = given_statistics(statistics, method) if statistics and given is None else {}
    request = Request(recipe, asked, method, Path(out), given, work_place(out), Crew(), kept)
    if "task" in request.data_sets:
        materials.training_rows(recipe)
    if "knowledge" in request.data_sets:
        materials.knowledge_prompts(recipe)
    queue = _queue(request)
    chosen, seen = engine_for(recipe, engine, None if given else method, queue)
    check_space(out, *init_space(recipe, method, given, chosen, seen, queue))
    started = time.perf_counter()
    with crew() as hands:
        request = dataclasses.replace(request, hands=hands)
        expected = _forecast(request, chosen, seen, queue)
        if announce is not None and hands.leads:
            announce(expected)
        if not hands.leads:
            hands.wait()  # for the folder of what is kept, which the first process marks
            _help(request)
            return None
        with work_folder(out, KEPT):
            hands.wait()
            plan, difference = _streamed(request) if chosen == "streamed" else _resident(request)
    return {
        "method": plan.method,
        "engine": chosen,
        "modules": len(plan.targets),
        "calibration_rows": plan.data and plan.data["rows"],
        "settled": plan.data and plan.data.get("settled"),
        "rows": calibration_rows(recipe) if "task" in request.data_sets else None,
        "trainable_params": plan.trainable_parameters,
        "requested_params": plan.requested_parameters,
        "coverage": plan.coverage,
        "arithmetic": decided.to_mapping(),
        "seconds": time.perf_counter() - started,
        "predicted_peak_bytes": expected.peak_bytes,
        "predicted_seconds": expected.seconds,
        "predicted_least_seconds": expected.least and expected.least[0],
        "peak_bytes": peak_bytes(),
        "max_logit_difference": difference,
        "plan": str(Path(out) / "plan.json"),
        "adapter": str(Path(out) / "adapter"),
    }


def engine_for(
    recipe: Recipe, engine: Engine, method: str | None = None, batches: Sequence[Batch] = ()
) -> tuple[ChosenEngine, Outlook]:
    """The engine to use, and the model's outlook it was chosen by; the model is not loaded.

    Args:
        recipe: model and init settings.
        engine: as in `initialise`.
        method: that is to plan; "auto" never streams one that asks for more than this engine takes. None obeys a plan.
        batches: that will be read.

    Raises:
        ModelError: if the model is not found, or has no module to adapt.
        ConfigError: if the streamed engine is asked for and does not take what the method needs, or in several
            processes.
        ResourceError: if `engine` is "auto" and the model fits neither way.
    """
    if engine == "streamed" and processes() > 1:
        raise ConfigError(
            "the streamed engine works in one process",
            where="--engine",
            got=f"{processes()} processes",
            do="start it without torchrun",
        )
    if engine == "streamed" and method is not None:
        check_streamable(method)
    seen = outlook(recipe, batches)
    if settles(recipe) and batches:
        seen = for_halves(seen)
    seen = for_method(seen, method, resolved(recipe.init))
    streams = processes() == 1 and (method is None or streamable(method))
    return seen.choose(engine, streams=streams), seen


def _queue(request: Request) -> list[Batch]:
    """Every batch that will be read, by all processes together."""
    if not request.to_take:
        return []
    tokenizer = materials.tokenizer_of(request.recipe)
    return [batch for data in request.data_sets for batch in batches_of(request.recipe, tokenizer, data)[0]]


def _forecast(request: Request, engine: ChosenEngine, seen: Outlook, queue: Sequence[Batch]) -> Forecast:
    tokens, hands, steps = 0, request.hands.size, list[int]()
    if "curvature" in request.to_take:
        if settles(request.recipe):
            steps = sizes(sum(batch.input_ids.shape[0] for batch in queue))
        most = request.config.max_batches
        read = queue if most is None else queue[: most * hands]
        tokens = sum(batch.tokens for batch in read) // hands
    decomposes = request.given is None and "spectrum" in get_method(request.method).needs
    return forecast(seen, engine, tokens, decomposes=decomposes, route=request.config.route, steps=steps)


def _resident(request: Request) -> tuple[Plan, float]:
    loaded = materials.load_for_statistics(request.recipe)
    cache = SpectrumCache(spectrum_folder())
    _decompose(request, loaded, cache)
    found = _statistics(request, loaded, cache)
    with new_folder(request.out, "init") as folder:
        plan = request.given or _decide(request, loaded, cache, found)
        for summed, origin in found.values():
            save_statistics(summed, origin, folder / origin.kind.filename)
        sample = sample_inputs(loaded.model)
        before = logits(loaded.model, sample)
        route = request.recipe.init.route
        spectra, seed = functools.partial(cache.get, route=route), request.recipe.init.seed
        model = apply(loaded.model, plan, spectra, seed=seed, fingerprint=loaded.fingerprint)
        difference = max_difference(before, logits(model, sample))
        request.finish(plan, model, folder)
    return plan, difference


def _help(request: Request) -> None:
    """The part of a process that does not lead: its shard of the statistics and of the decompositions."""
    loaded = materials.load_for_statistics(request.recipe)
    cache = SpectrumCache(spectrum_folder())
    _decompose(request, loaded, cache)
    _statistics(request, loaded, cache)


def _statistics(request: Request, loaded: LoadedModel, cache: SpectrumCache) -> dict[str, tuple[Summed, Origin]]:
    """What the plan is made from, by name: from files, or of the data, of which each process reads its share."""
    found: dict[str, tuple[Summed, Origin]] = {}
    for name in request.needed:
        if name in request.statistics:
            found[name] = load_statistics(request.statistics[name])
            check_usable(found[name][1], loaded.fingerprint, request.statistics[name])
    hands = request.hands
    for name, statistic in request.to_take.items():
        with ProgressLine("statistics" if statistic is CURVATURE else name, quiet=not hands.leads) as line:
            if statistic is CURVATURE:
                summed, origin = take_enough_statistics(request.recipe, loaded, request.work, cache, line, hands)
            else:
                kept = request.work / partial(statistic, hands.rank)
                summed, origin = take_statistics(
                    request.recipe, loaded, statistic, hands.shard, kept, line, request.method
                )
            hands.add_up_(summed)
        found[name] = summed, dataclasses.replace(origin, shards=(1,), count=1)
    return found


def _decompose(request: Request, loaded: LoadedModel, cache: SpectrumCache) -> None:
    """Fill the cache of spectra, shared out among the processes."""
    if request.hands.size > 1 and request.given is None and "spectrum" in get_method(request.method).needs:
        config = request.config
        for target in request.hands.share(find_targets(loaded.model, config.targets, config.exclude)):
            cache.get(target, config.route)
        request.hands.wait()


def _decide(
    request: Request, loaded: LoadedModel, cache: SpectrumCache, found: dict[str, tuple[Summed, Origin]]
) -> Plan:
    """The plan, by the process that leads."""
    ready = prepare(
        loaded.model,
        [],
        request.recipe.init,
        [request.method],
        identity=loaded.fingerprint,
        statistics={name: summed for name, (summed, _) in found.items()},
        origins={name: origin.data for name, (_, origin) in found.items()},
        spectra=cache,
        match=request.recipe.match,
        budget_params=request.recipe.budget_params,
    )
    return ready.plans[request.method]


def _streamed(request: Request) -> tuple[Plan, None]:
    """The plan, and None: no forward pass sees the whole model, so no outputs are compared.

    What the adapter adds is zero to the bit before training (`farss.adapters.sides`).
    """
    dtype = None if request.config.dtype == "auto" else request.config.dtype
    source = StreamedModel(request.recipe.model, dtype=dtype, device=place(request.recipe.device))
    keep_date_(source.tokenizer, request.recipe.data.date)
    cache = SpectrumCache(spectrum_folder())
    plan = request.given
    if request.statistics and plan is None:
        raise ConfigError(
            "the streamed engine scores each block as it passes and reads no statistics",
            where="--stats",
            do="leave --stats out, or use the resident engine",
        )
    if plan is None:
        evidence = _streamed_evidence(request, source, cache)
        targets = source.targets(request.config)
        budget = budget_of(targets, evidence, request.config, request.recipe.match, request.recipe.budget_params)
        made = plan_for(get_method(request.method), targets, evidence, request.config, budget)
        plan = dataclasses.replace(made, coverage=coverage(source.model, targets).to_mapping())
    factors = source.start_factors(plan, cache)
    source.weights.hollow_(source.model)  # PEFT puts adapters where it finds weights
    with new_folder(request.out, "init") as folder:
        seed = request.recipe.init.seed
        model = apply(source.model, plan, seed=seed, fingerprint=source.fingerprint, factors=factors)
        request.finish(plan, model, folder)
    return plan, None


def _streamed_evidence(request: Request, source: StreamedModel, cache: SpectrumCache) -> Evidence:
    identity, growth = (source.fingerprint, str(source.dtype)), None
    if "curvature" in request.to_take:
        growth = growth_of(request.recipe, source.tokenizer, request.work, identity)
    if growth is None:
        batches, data = _streamed_calibration(request, source)
        with ProgressLine(f"walk over the blocks of {request.recipe.model.name}") as line:
            return source.evidence(
                request.method, batches, request.config, cache, data=data, work=request.work / "walk", progress=line
            )
    check_streamable(request.method)
    targets = source.targets(request.config)
    check_boundary(targets, request.config, [request.method])

    def blocks(work: Path, data: dict[str, Any]) -> HalvedBlocks:
        return HalvedBlocks(Halved.empty(source.fingerprint, data), targets, cache, request.config, work)

    received, found = grow_streamed(source, growth, blocks)
    evidence = received.found.whole
    evidence.data = growth.account(found)
    return evidence


def _streamed_calibration(request: Request, source: StreamedModel) -> tuple[list[Batch], dict[str, Any] | None]:
    if "curvature" not in request.to_take:
        return [], None
    examples = calibration_of(request.recipe, source.tokenizer)
    batches = shard_batches(request.recipe, source.tokenizer, examples, request.hands.shard)
    return batches, data_fingerprint(examples, request.recipe.data.seed)
