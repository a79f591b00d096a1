"""What work on a recipe's model will need, before anything is loaded: from its configuration alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from farss.config import FarssConfig, Recipe
from farss.experiment.initialisation.halves import HALVES
from farss.experiment.initialisation.planning import reached, resolved
from farss.maths.choice import Choice
from farss.methods import get_method
from farss.methods.statistics import CURVATURE, statistics_of
from farss.model.blocks import BlockChain
from farss.model.calibration import Batch
from farss.model.cost import (
    BatchSize,
    MemoryCost,
    choose_engine,
    resident_cost,
    streamed_cost,
)
from farss.model.devices import free_bytes, place
from farss.model.lazy import skeleton
from farss.model.sources import arithmetic_of, resolve
from farss.model.targets import Target, chain_prefixes, find_targets
from farss.model.timing import PASS_FLOPS, WALK_FLOPS, TimeCost, calibrate, predict

Engine = Literal["auto", "resident", "streamed"]
ChosenEngine = Literal["resident", "streamed"]


@dataclass(frozen=True)
class Outlook:
    """A model without its weights, and the memory that either engine needs for it.

    Attributes:
        model: its modules, weights empty.
        targets: the modules to adapt.
        dtype: of the weights during the pass.
        resident: memory with the whole model loaded.
        streamed: memory block by block; None where the model cannot be walked.
        device: whose memory that is.
    """

    model: nn.Module
    targets: list[Target]
    dtype: torch.dtype
    resident: MemoryCost
    streamed: MemoryCost | None
    device: torch.device

    def memory(self, engine: ChosenEngine) -> MemoryCost:
        """What an engine that was chosen needs."""
        cost = self.resident if engine == "resident" else self.streamed
        assert cost is not None, "an engine that is chosen has a cost"
        return cost

    def time(self, engine: ChosenEngine, tokens: int, route: Choice = "gram") -> TimeCost:
        """What it takes with no spectrum in the cache; measures the machine's speed for about a second.

        Args:
            engine: that will be used.
            tokens: of the calibration examples.
            route: by which weights are decomposed.
        """
        flops = WALK_FLOPS if engine == "streamed" else PASS_FLOPS
        return predict(self.model, self.targets, self.dtype, tokens, calibrate(self.dtype, route, self.device), flops)

    def choose(self, engine: Engine, *, streams: bool = True) -> ChosenEngine:
        """The engine to use.

        Args:
            engine: asked for; "auto" streams a model that does not fit in memory.
            streams: whether "auto" may.

        Raises:
            NotAChain: if the streamed engine is to walk a model that cannot be walked.
            ResourceError: if `engine` is "auto" and the model fits neither way.
        """
        if engine == "auto":
            chosen = choose_engine(self.resident, self.streamed if streams else None, free_bytes(self.device))
        else:
            chosen = engine
        if chosen == "streamed":
            BlockChain(self.model, self.targets)  # says why, if it cannot be walked
        return chosen


@dataclass(frozen=True)
class Forecast:
    """What an initialisation is expected to need, before anything is loaded.

    Attributes:
        engine: that will be used.
        peak_bytes: memory of the device; on the processor, of the whole process.
        device: where the model is computed.
        seconds: of the pass and the decompositions, with no spectrum in the cache; None where neither is needed.
        tokens: of the calibration examples, 0 where none are read.
        least: seconds and tokens if the first step is enough, where the data decide how many rows are read; `seconds`
            and `tokens` are then those of all steps. None where it is fixed.
    """

    engine: ChosenEngine
    peak_bytes: int
    device: torch.device
    seconds: float | None
    tokens: int
    least: tuple[float, int] | None = None


def forecast(
    seen: Outlook,
    engine: ChosenEngine,
    tokens: int,
    *,
    decomposes: bool,
    route: Choice = "gram",
    steps: Sequence[int] = (),
) -> Forecast:
    """What the chosen engine will need; measures the machine's speed for about a second if time is asked for.

    Args:
        seen: of `outlook`.
        engine: the chosen one.
        tokens: of the calibration examples, 0 if none are read.
        decomposes: whether weights are decomposed.
        route: by which.
        steps: rows at each step, the last one those of `tokens`, where the data decide how many are read. Every step is
            scored, and walked from its first row on by the streamed engine.
    """
    peak = seen.memory(engine).peak
    if not tokens and not decomposes:
        return Forecast(engine, peak, seen.device, None, 0)
    cost = seen.time(engine, tokens, route)
    fixed = decomposes * cost.decomposition
    if not steps:
        return Forecast(engine, peak, seen.device, cost.statistics + fixed, tokens)
    most = sum(steps) / steps[-1] if engine == "streamed" else 1.0
    first = steps[0] / steps[-1]
    seconds = most * cost.statistics + len(steps) * cost.scoring + fixed
    least = first * cost.statistics + cost.scoring + fixed, round(first * tokens)
    return Forecast(engine, peak, seen.device, seconds, round(most * tokens), least)


def for_halves(seen: Outlook) -> Outlook:
    """The outlook with the moments of two halves kept apart."""
    streamed = None if seen.streamed is None else doubled(seen.streamed)
    return replace(seen, resident=doubled(seen.resident), streamed=streamed)


def doubled(cost: MemoryCost) -> MemoryCost:
    """The memory of an initialisation with the moments of two halves kept apart."""
    return replace(cost, moments=len(HALVES) * cost.moments)


def for_method(seen: Outlook, method: str | None, config: FarssConfig) -> Outlook:
    """The outlook with the statistics that one method is planned from, instead of the curvature alone.

    Args:
        seen: of `outlook`.
        method: that is to plan; None obeys a plan and reads no data.
        config: a resolved configuration.
    """
    needed = {} if method is None else statistics_of([get_method(method)])
    # The outlook's own moments are the curvature's, of two halves where rows are read as far as it takes.
    moments = sum(
        seen.resident.moments if one is CURVATURE else one.memory(seen.targets, seen.dtype, config)
        for one in needed.values()
    )
    activations = seen.resident.activations if needed else 0
    return replace(seen, resident=replace(seen.resident, moments=moments, activations=activations))


def outlook(recipe: Recipe, batches: Sequence[Batch] = ()) -> Outlook:
    """The outlook on initialising the recipe's model.

    Args:
        recipe: model and init settings.
        batches: what will be read; the largest decides what activations and logits take. None where no data are read.

    Raises:
        ModelError: if the model is not found, or has no module to adapt, or one that PEFT does not follow.
    """
    config = resolved(recipe.init)
    folder, device = resolve(recipe.model.name, recipe.model.revision), place(recipe.device)
    dtype = None if config.dtype == "auto" else config.dtype
    decided = arithmetic_of(recipe.model, device, dtype=dtype, piecewise=True)  # the engine is chosen by memory
    model, kind = skeleton(folder, decided.weights, trust_remote_code=recipe.model.trust_remote_code)
    targets = find_targets(model, config.targets, config.exclude, in_memory=False)
    reached(model, targets)
    largest = BatchSize.largest(batches)
    resident = resident_cost(model, targets, kind, largest)
    walkable = len(chain_prefixes(model)) == 1 and all(target.layer is not None for target in targets)
    streamed = streamed_cost(model, targets, kind, largest) if walkable else None
    return Outlook(model, targets, kind, resident, streamed, device)
