"""What an inspection sees: scores of every module by each half of the calibration examples and by both."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from farss.config import Recipe
from farss.experiment import materials
from farss.experiment.accounts import describe_model
from farss.experiment.initialisation.kept_blocks import KeptBlocks, packed, unpack
from farss.experiment.initialisation.planning import resolved, spectrum_folder
from farss.experiment.initialisation.sharding import take_statistics
from farss.experiment.initialisation.statistics import Shard
from farss.experiment.initialisation.streaming import StreamedModel
from farss.experiment.progress import ProgressLine
from farss.maths.choice import Choice
from farss.maths.energy import eigenvalue_share, energy_share
from farss.methods.base import Evidence
from farss.model.calibration import Batch, Example
from farss.model.curvature import Curvature
from farss.model.devices import place
from farss.model.spectra import SpectrumCache
from farss.model.targets import Target, find_targets, weight_matrix

HALVES = (Shard(1, 2), Shard(2, 2))


@dataclass
class Found:
    """What a look at a model found, before it is put into words.

    Attributes:
        model: its account, of `describe_model`.
        dtype: of its weights.
        targets: its modules.
        whole: scores of all examples.
        halves: scores of each half.
        counts: tokens, supervised tokens and sequences of each half.
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
    whole: Evidence
    halves: tuple[Evidence, Evidence]
    counts: list[dict[str, int]] = field(default_factory=list)
    inputs: dict[str, str] = field(default_factory=dict)
    energy_weights: dict[str, float] = field(default_factory=dict)
    energy_inputs: dict[str, float | None] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    decomposed: int = 0
    restored: int = 0
    restored_rows: int = 0

    def count(self, parts: Sequence[Curvature]) -> None:
        """Note how much each half holds and how much of it was kept, and who shares an input."""
        self.counts = [{"tokens": p.tokens, "supervised": p.supervised, "rows": p.sequences} for p in parts]
        self.restored_rows = sum(p.restored for p in parts)
        self.inputs |= parts[0].inputs


class Scorer:
    """Scores modules by each half and by both, and measures how concentrated their spectra are.

    Args:
        found: receives it all.
        route: of decompositions.
    """

    def __init__(self, found: Found, route: Choice) -> None:
        self.found, self.cache = found, SpectrumCache(spectrum_folder())
        self.route: Choice = route
        self.decomposing = self.seconds = 0.0

    def score(self, target: Target, parts: Sequence[Curvature]) -> None:
        """Score one module, whose weight is in memory, from the moments of each half."""
        found, started = self.found, time.perf_counter()
        spectrum = self.cache.get(target, self.route)
        decomposed = time.perf_counter()
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


def look(recipe: Recipe, examples: list[Example], data: dict[str, Any], work: Path) -> Found:
    """Look at a model in memory.

    Args:
        recipe: model and init settings.
        examples: all calibration examples.
        data: their fingerprint.
        work: keeps the sums of each half, from which an interrupted call goes on.
    """
    config = resolved(recipe.init)
    loaded = materials.load_for_statistics(recipe)
    targets = find_targets(loaded.model, config.targets, config.exclude)
    found = Found(describe_model(loaded, targets), loaded.dtype, targets, *_evidence(loaded.fingerprint, data))
    started = time.perf_counter()
    parts: list[Curvature] = []
    for shard in HALVES:
        with ProgressLine(f"statistics of half {shard.number}/{shard.count}") as line:
            kept = work / f"half-{shard.number}.safetensors"
            parts.append(take_statistics(recipe, loaded, shard, kept, line, examples)[0])
    seconds = time.perf_counter() - started
    found.count(parts)
    scorer = Scorer(found, config.route)
    with ProgressLine(f"spectra and scores of {len(targets)} modules") as line:
        for number, target in enumerate(targets):
            scorer.score(target, parts)
            line(number + 1, len(targets))
    scorer.finish(seconds)
    return found


def look_streamed(recipe: Recipe, halves: Sequence[Sequence[Batch]], data: dict[str, Any], work: Path) -> Found:
    """Look at a model on disk, one block at a time; both halves see a block while its weights are in memory.

    Args:
        recipe: model and init settings.
        halves: batches of each half of the calibration examples.
        data: fingerprint of all of them.
        work: keeps hidden states and finished blocks, from which an interrupted call goes on.
    """
    config = resolved(recipe.init)
    dtype = None if config.dtype == "auto" else config.dtype
    source = StreamedModel(recipe.model, dtype=dtype, device=place(recipe.device))
    targets = source.targets(config)
    found = Found(describe_model(source, targets), source.dtype, targets, *_evidence(source.fingerprint, data))
    scorer = Scorer(found, config.route)
    started = time.perf_counter()
    with ProgressLine(f"walk over the blocks of {recipe.model.name}") as line:
        source.walk(LookedAtBlocks(scorer, work / "walk"), halves, config, data=data, progress=line)
    scorer.finish(time.perf_counter() - started - scorer.seconds)
    return found


class LookedAtBlocks(KeptBlocks):
    """Scores the modules of each block by each half and by both while their weights are in memory.

    Args:
        scorer: scores and remembers.
        work: as for `KeptBlocks`.
    """

    def __init__(self, scorer: Scorer, work: Path | None = None) -> None:
        super().__init__(scorer.found.targets, work)
        self.scorer = scorer

    def digest(self, targets: Sequence[Target], parts: Sequence[Curvature]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Score the modules."""
        found = self.scorer.found
        found.count(parts)
        for target in targets:
            self.scorer.score(target, parts)
        kept = {mark: packed(evidence, targets, f"{mark}/") for mark, evidence in self._evidence().items()}
        names = [target.name for target in targets]
        notes = {
            "importance": {mark: importance for mark, (_, importance) in kept.items()},
            "counts": found.counts,
            "inputs": {name: found.inputs[name] for name in names},
            "energy_weights": {name: found.energy_weights[name] for name in names},
            "energy_inputs": {n: found.energy_inputs[n] for n in names if n in found.energy_inputs},
        }
        return {name: tensor for tensors, _ in kept.values() for name, tensor in tensors.items()}, notes

    def restore(self, tensors: Mapping[str, Tensor], notes: dict[str, Any]) -> None:
        """Put scores, counts and shares back."""
        found = self.scorer.found
        for mark, evidence in self._evidence().items():
            unpack(evidence, tensors, notes["importance"][mark], f"{mark}/")
        found.restored += len(notes["energy_weights"])
        found.counts = notes["counts"]
        found.inputs |= notes["inputs"]
        found.energy_weights |= notes["energy_weights"]
        found.energy_inputs |= notes["energy_inputs"]

    def _evidence(self) -> dict[str, Evidence]:
        found = self.scorer.found
        return {"whole": found.whole, "half-1": found.halves[0], "half-2": found.halves[1]}


def _evidence(fingerprint: str, data: dict[str, Any]) -> tuple[Evidence, tuple[Evidence, Evidence]]:
    whole, one, two = (Evidence(fingerprint, data=data) for _ in range(3))
    return whole, (one, two)


def _together(parts: Sequence[Curvature], means: Sequence[Tensor]) -> Tensor:
    """The mean over all tokens, from the means over each part's."""
    total = sum(part.tokens for part in parts)
    weighted = [mean * (part.tokens / total) for part, mean in zip(parts, means, strict=True)]
    return weighted[0] + weighted[1]
