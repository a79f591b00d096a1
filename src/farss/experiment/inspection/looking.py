"""What an inspection sees: scores of every module by each half of the calibration examples and by both."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from farss.config import FarssConfig, Recipe
from farss.experiment import materials
from farss.experiment.accounts import describe_model
from farss.experiment.calibrating import growth_of
from farss.experiment.initialisation.growing import grow, grow_streamed
from farss.experiment.initialisation.halves import HALVES, Halved, HalvedBlocks, together
from farss.experiment.initialisation.planning import resolved, spectrum_folder
from farss.experiment.initialisation.sharding import shard_batches, take_statistics
from farss.experiment.initialisation.streaming import StreamedModel
from farss.experiment.progress import ProgressLine
from farss.maths.choice import Choice
from farss.maths.energy import eigenvalue_share, energy_share
from farss.methods.statistics import CURVATURE
from farss.model.calibration import Example, data_fingerprint
from farss.model.devices import place
from farss.model.sources import LoadedModel
from farss.model.spectra import SpectrumCache
from farss.model.targets import Target, find_targets
from farss.statistics.curvature import Curvature


@dataclass(kw_only=True)
class Found(Halved):
    """What a look at a model found, before it is put into words.

    Attributes:
        model: its account, of `describe_model`.
        dtype: of its weights.
        targets: its modules.
        inputs: module name -> module whose input it shares.
        energy_weights: module name -> share of the five largest squared singular values.
        energy_inputs: module name of an input -> the same of its hidden states, None where they were not kept.
        seconds: measured, by the parts of `TimeCost`.
        decomposed: weights that were not in the cache.
        restored: weights that an interrupted call had looked at; its time is not in `seconds`.
        restored_rows: examples whose statistics an interrupted call had taken; nor is this time.
    """

    model: dict[str, Any]
    dtype: torch.dtype
    targets: list[Target]
    inputs: dict[str, str] = field(default_factory=dict)
    energy_weights: dict[str, float] = field(default_factory=dict)
    energy_inputs: dict[str, float | None] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    decomposed: int = 0
    restored: int = 0
    restored_rows: int = 0

    @classmethod
    def of(cls, loaded: LoadedModel | StreamedModel, targets: list[Target], data: dict[str, Any] | None) -> Self:
        """Nothing found yet of this model."""
        model = describe_model(loaded, targets)
        return cls.empty(loaded.fingerprint, data, model=model, dtype=loaded.dtype, targets=targets)

    def count(self, parts: Sequence[Curvature]) -> None:
        """Note how much each half holds and how much of it was kept, and who shares an input."""
        super().count(parts)
        self.restored_rows = sum(p.restored for p in parts)
        self.inputs |= parts[0].inputs


class Scorer:
    """Scores modules by each half and by both, and measures how concentrated their spectra are.

    Args:
        found: receives it all.
        route: of decompositions.
        cache: of them.
    """

    def __init__(self, found: Found, route: Choice, cache: SpectrumCache) -> None:
        self.found, self.cache = found, cache
        self.route: Choice = route
        self.decomposing = self.seconds = 0.0

    def score(self, target: Target, parts: Sequence[Curvature]) -> None:
        """Score one module, whose weight is in memory, from the moments of each half."""
        found, started = self.found, time.perf_counter()
        spectrum = self.cache.get(target, self.route)
        decomposed = time.perf_counter()
        found.score(target, spectrum, parts)
        found.energy_weights[target.name] = energy_share(spectrum.sigma)
        leader = found.inputs[target.name]
        if leader not in found.energy_inputs:
            states = [moment for part in parts if (moment := part.input_moment(leader)) is not None]
            found.energy_inputs[leader] = eigenvalue_share(together(parts, states)) if states else None
        self.decomposing += decomposed - started
        self.seconds += time.perf_counter() - started

    def finish(self, statistics: float) -> None:
        """Note the time of each part; `statistics` in seconds."""
        self.found.seconds = {
            "statistics": statistics,
            "decomposition": self.decomposing,
            "scoring": self.seconds - self.decomposing,
        }
        self.found.decomposed = self.cache.decomposed


def look(recipe: Recipe, examples: list[Example], work: Path) -> Found:
    """Look at a model in memory.

    Args:
        recipe: model, data and init settings.
        examples: all calibration examples that may be read.
        work: keeps the sums of each half, from which an interrupted call goes on.
    """
    config = resolved(recipe.init)
    loaded = materials.load_for_statistics(recipe)
    targets = find_targets(loaded.model, config.targets, config.exclude)
    started = time.perf_counter()
    cache = SpectrumCache(spectrum_folder())
    parts, data = _halves(recipe, loaded, targets, examples, work, cache)
    seconds = time.perf_counter() - started
    found = Found.of(loaded, targets, data)
    found.count(parts)
    scorer = Scorer(found, config.route, cache)
    with ProgressLine(f"spectra and scores of {len(targets)} modules") as line:
        for number, target in enumerate(targets):
            scorer.score(target, parts)
            line(number + 1, len(targets))
    scorer.finish(seconds)
    return found


def _halves(
    recipe: Recipe,
    loaded: LoadedModel,
    targets: list[Target],
    examples: list[Example],
    work: Path,
    cache: SpectrumCache,
) -> tuple[list[Curvature], dict[str, Any]]:
    """The moments of each half of the examples, and the fingerprint of both."""
    growth = growth_of(recipe, loaded.tokenizer, work, (loaded.fingerprint, str(loaded.dtype)))
    if growth is not None:
        with ProgressLine("statistics of two halves") as line:
            parts, settled = grow(loaded.model, targets, growth, cache, line)
        return parts, growth.account(settled)
    parts = []
    for shard in HALVES:
        with ProgressLine(f"statistics of half {shard.number}/{shard.count}") as line:
            kept = work / f"half-{shard.number}.safetensors"
            parts.append(take_statistics(recipe, loaded, CURVATURE, shard, kept, line)[0])
    return parts, data_fingerprint(examples, recipe.data.seed)


def look_streamed(recipe: Recipe, examples: list[Example], work: Path) -> Found:
    """Look at a model on disk, one block at a time; both halves see a block while its weights are in memory.

    Args:
        recipe: model, data and init settings.
        examples: all calibration examples that may be read.
        work: keeps hidden states and finished blocks, from which an interrupted call goes on.
    """
    config = resolved(recipe.init)
    dtype = None if config.dtype == "auto" else config.dtype
    source = StreamedModel(recipe.model, dtype=dtype, device=place(recipe.device))
    targets = source.targets(config)
    cache = SpectrumCache(spectrum_folder())
    growth = growth_of(recipe, source.tokenizer, work, (source.fingerprint, str(source.dtype)))

    def blocks(folder: Path, data: dict[str, Any]) -> LookedAtBlocks:
        return LookedAtBlocks(Scorer(Found.of(source, targets, data), config.route, cache), config, folder)

    started = time.perf_counter()
    if growth is not None:
        received, settled = grow_streamed(source, growth, blocks)
        received.found.whole.data = growth.account(settled)
    else:
        data = data_fingerprint(examples, recipe.data.seed)
        halves = [shard_batches(recipe, source.tokenizer, examples, shard) for shard in HALVES]
        received = blocks(work / "walk", data)
        with ProgressLine(f"walk over the blocks of {recipe.model.name}") as line:
            source.walk(received, halves, config, data=data, progress=line)
    scorer = received.scorer
    scorer.finish(time.perf_counter() - started - scorer.seconds)
    return scorer.found


class LookedAtBlocks(HalvedBlocks):
    """Looks at the modules of each block while their weights are in memory.

    Args:
        scorer: scores and remembers.
        config: tells the route.
        work: as for `KeptBlocks`.
    """

    def __init__(self, scorer: Scorer, config: FarssConfig, work: Path | None = None) -> None:
        super().__init__(scorer.found, scorer.found.targets, scorer.cache, config, work)
        self.scorer = scorer

    def score(self, target: Target, parts: Sequence[Curvature]) -> None:
        """Score one module."""
        self.scorer.score(target, parts)

    def digest(self, targets: Sequence[Target], parts: Sequence[Curvature]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Score the modules, and keep what else was seen of them."""
        tensors, notes = super().digest(targets, parts)
        found, names = self.scorer.found, [target.name for target in targets]
        seen = {
            "inputs": {name: found.inputs[name] for name in names},
            "energy_weights": {name: found.energy_weights[name] for name in names},
            "energy_inputs": {n: found.energy_inputs[n] for n in names if n in found.energy_inputs},
        }
        return tensors, notes | seen

    def restore(self, tensors: Mapping[str, Tensor], notes: dict[str, Any]) -> None:
        """Put scores, counts and shares back."""
        super().restore(tensors, notes)
        found = self.scorer.found
        found.restored += len(notes["energy_weights"])
        found.inputs |= notes["inputs"]
        found.energy_weights |= notes["energy_weights"]
        found.energy_inputs |= notes["energy_inputs"]
