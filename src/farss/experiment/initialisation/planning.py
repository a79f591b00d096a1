"""From a model and calibration data to plans: one data pass and one spectrum per weight, for any number of methods."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from farss.adapters.rehearsal import check_followed
from farss.config import FarssConfig, Match
from farss.errors import DataError
from farss.experiment.initialisation.budget import budget_of, plan_for
from farss.methods import get_method
from farss.methods.base import Evidence, SpectralMethod, shallow_layer_count
from farss.methods.compat import published_batches, published_code_config
from farss.methods.statistics import SPECTRUM, statistics_of
from farss.model.calibration import Batch, Example, batches, pad_token
from farss.model.coverage import Coverage, say_what_is_left
from farss.model.plan import Plan
from farss.model.sources import cache_root, fingerprint
from farss.model.spectra import SpectrumCache
from farss.model.targets import Target, find_targets
from farss.statistics.keeping import Keep
from farss.statistics.kinds import Pass, Statistic
from farss.statistics.summed import Summed

Found = TypeVar("Found", bound=Summed)


@dataclass(frozen=True)
class Preparation:
    """Plans of several methods over shared evidence, and what they cost.

    Attributes:
        plans: by the name of the method, or the one that was asked for.
        evidence: spectra, curvature and their provenance.
        seconds: wall time of "spectrum" and of each statistic that a method needs, by name (0 where nothing was done
            here), and of each method's planning by its name.
    """

    plans: dict[str, Plan]
    evidence: Evidence
    targets: list[Target]
    seconds: dict[str, float]


def plan(
    model: nn.Module,
    calibration: Iterable[Batch],
    config: FarssConfig | None = None,
    *,
    method: str = "farss",
    knowledge: Iterable[Batch] = (),
) -> Plan:
    """The plan of one method for `model`, which is only read.

    Args:
        model: a causal language model of transformers.
        calibration: batches with `input_ids`, `attention_mask` and `labels`, each [b, t] int64; labels are -100 where
            nothing is supervised. An ordinary DataLoader of such dictionaries will do.
        config: ranks, boundary and named choices; the paper's values by default.
        method: a name of `farss methods`.
        knowledge: batches of knowledge questions, for methods that need them; nothing has to be supervised.

    Raises:
        FarssError: see `docs/errors.md`.
    """
    settings = config or FarssConfig()
    queues = {"task": calibration, "knowledge": knowledge}
    rows = {name: [Batch.of(batch) for batch in queue] for name, queue in queues.items()}
    return prepare(model, rows["task"], settings, [method], knowledge=rows["knowledge"]).plans[method]


def calibration_batches(
    examples: Sequence[Example], config: FarssConfig, tokenizer: Any, max_length: int
) -> list[Batch]:
    """The calibration examples as batches, in the published code's way if `config.compat` asks for it."""
    pad = pad_token(tokenizer)
    if config.compat == "published-code":
        return published_batches(examples, pad_id=pad, max_length=max_length)
    return batches(examples, batch_tokens=config.batch_tokens, pad_id=pad)


@dataclass(frozen=True)
class Asked:
    """A plan that is asked for.

    Attributes:
        name: that it gets.
        method: registry name.
        config: init settings.
        match, budget_params: as of `prepare`.
    """

    name: str
    method: str
    config: FarssConfig
    match: Match = "rank"
    budget_params: int | None = None


def prepare(
    model: nn.Module,
    calibration: Sequence[Batch],
    config: FarssConfig,
    methods: Sequence[str | Asked],
    *,
    data: dict[str, Any] | None = None,
    statistics: Mapping[str, Summed] | None = None,
    origins: Mapping[str, dict[str, Any]] | None = None,
    spectra: SpectrumCache | None = None,
    progress: Any = None,
    knowledge: Sequence[Batch] = (),
    match: Match = "rank",
    budget_params: int | None = None,
    identity: str | None = None,
) -> Preparation:
    """The plans of `methods`, sharing one pass for each kind of statistics that one of them needs.

    Args:
        model: is only read.
        calibration: batches of the task's data.
        config: init settings.
        methods: names of `farss methods`, or plans of other configurations, which agree with `config` in how data are
            read and weights decomposed.
        data: fingerprint of `calibration`.
        statistics: what was taken before, by name; the others that a method needs are taken here.
        origins: fingerprints of the data that statistics are of, by name, where these are others than `data`.
        spectra: where decompositions are kept.
        progress: called with (real tokens done, real tokens in total) after every batch of a pass.
        knowledge: batches of knowledge questions.
        match: what adapters have in common: the rank, or the number of trainable parameters.
        budget_params: that number; None is what plain `lora` trains at `config.rank`.
        identity: the model's fingerprint, where it is known already; None computes it.

    Raises:
        DataError: if a method needs data and none are given.
        ModelError: if no module matches.
        PlanError: if ranks or boundary do not fit the model.
    """
    asked = [one if isinstance(one, Asked) else Asked(one, one, config, match, budget_params) for one in methods]
    settings = resolved(config)
    targets = find_targets(model, settings.targets, settings.exclude)
    for one in asked:
        check_boundary(targets, resolved(one.config), [one.method])
    covered = reached(model, targets).to_mapping()
    methods_asked = [get_method(one.method) for one in asked]
    needed = statistics_of(methods_asked)
    gathered, seconds = dict(statistics or {}), dict.fromkeys(needed, 0.0)
    for name in [name for name in needed if name not in gathered]:
        started = time.perf_counter()
        queue = knowledge if needed[name].data == "knowledge" else calibration
        gathered[name] = take(needed[name], model, queue, targets, settings, progress)
        seconds[name] = time.perf_counter() - started
    cache = spectra if spectra is not None else SpectrumCache(spectrum_folder())
    seconds["spectrum"] = 0.0
    if any(SPECTRUM in method.needs for method in methods_asked):
        started = time.perf_counter()
        for target in targets:
            cache.get(target, settings.route)
        seconds["spectrum"] = time.perf_counter() - started
    evidence = Evidence(
        model_fingerprint=identity or fingerprint(model),
        spectra=lambda target: cache.get(target, settings.route),
        statistics=gathered,
        data=data,
        origins=origins or {},
    )
    plans = {}
    for one in asked:
        started = time.perf_counter()
        plans[one.name] = dataclasses.replace(_planned(one, targets, evidence), coverage=covered)
        seconds[one.name] = time.perf_counter() - started
    return Preparation(plans, evidence, targets, seconds)


def _planned(one: Asked, targets: Sequence[Target], evidence: Evidence) -> Plan:
    settings = resolved(one.config)
    budget = budget_of(targets, evidence, settings, one.match, one.budget_params)
    return plan_for(get_method(one.method), targets, evidence, settings, budget)


def reached(model: nn.Module, targets: Sequence[Target]) -> Coverage:
    """What adapters on the targets reach of the model; what they leave is said, and what PEFT refuses is refused.

    Raises:
        ModelError: if PEFT does not follow; nothing was computed yet.
    """
    check_followed(model, targets)
    return say_what_is_left(model, targets)


def check_boundary(targets: Sequence[Target], config: FarssConfig, methods: Sequence[str]) -> None:
    """Check, before the data pass, that the shallow layers of a resolved configuration exist.

    Raises:
        PlanError: if a method that tells shallow from deep cannot do so in this model.
    """
    chosen = [get_method(name) for name in methods]
    if any(isinstance(method, SpectralMethod) and method.splits(config) for method in chosen):
        shallow_layer_count(targets, config)


def resolved(config: FarssConfig) -> FarssConfig:
    """The settings with `compat` spelled out as the named choices it stands for."""
    return published_code_config(config) if config.compat == "published-code" else config


def take(
    statistic: Statistic[Found],
    model: nn.Module,
    queue: Sequence[Batch],
    targets: list[Target],
    config: FarssConfig,
    progress: Any = None,
    keep: Keep | None = None,
) -> Found:
    """A statistic, with the choices of a resolved configuration.

    Raises:
        DataError: if there are no batches.
    """
    if statistic.data == "knowledge" and not queue:
        raise DataError("the method needs knowledge questions, and none are given", do="pass batches as `knowledge`")
    return statistic.collect(Pass(model, queue, targets, config, progress, keep))


def spectrum_folder() -> Path:
    """Where decompositions are kept between runs, one file per weight."""
    return cache_root() / "spectra"
