"""What a method is: a name, the evidence it needs, and a plan made from it.

Every spectral method is a score, a direction per region and a rank rule over one spectrum and one curvature
(`SpectralMethod`); a file per method declares which.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from farss.config import FarssConfig
from farss.errors import PlanError
from farss.maths.ranks import allocate
from farss.maths.scores import DirectionScores, default_shallow_layers, score_directions
from farss.maths.selection import Direction, select
from farss.maths.spectrum import Spectrum
from farss.method_settings import MethodSettings
from farss.methods.compat import RANK_RULE_THRESHOLD, published_code_config, published_importance
from farss.methods.look import Look
from farss.methods.owned import plan_settings
from farss.methods.statistics import OWN
from farss.model.plan import Plan, Region, TargetPlan
from farss.model.targets import Target, layer_count, weight_matrix
from farss.training.aids import TrainingAid

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)

Score = Literal["fisher", "sigma"]
RankRule = Literal["inverse_fisher", "fixed", "deep"]


class RankCapWarning(UserWarning):
    """A rank was asked for that some modules are too small for, or too rank-deficient."""


@dataclass
class Evidence:
    """What plans are made from: the model's identity, spectra of its weights, and statistics on data.

    Scores are computed once per module and shared by all methods that plan from the same evidence.

    Attributes:
        model_fingerprint: `farss.model.sources.fingerprint` of the weights.
        spectra: target -> Spectrum, usually `SpectrumCache.get`; None where no spectrum is available.
        statistics: what was taken of data, by the names that `needs` of methods has.
        data: fingerprint of the calibration data, written into plans that used it.
        origins: of the data that a statistic is of, by its name, where these are others than `data`.
    """

    model_fingerprint: str
    spectra: Callable[[Target], Spectrum] | None = None
    statistics: Mapping[str, Any] = field(default_factory=dict)
    data: dict[str, Any] | None = None
    origins: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    _sigma: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    _scores: dict[str, DirectionScores] = field(default_factory=dict, init=False, repr=False)

    def of(self, name: str, where: object = None) -> Any:
        """A statistic.

        Args:
            name: as `needs` has it.
            where: the module or method that it is for, for the error.

        Raises:
            PlanError: if it was not taken.
        """
        if name not in self.statistics:
            what = OWN[name].what if name in OWN else name
            raise PlanError(f"the method needs {what}, and none were collected", where=where)
        return self.statistics[name]

    def data_of(self, name: str) -> dict[str, Any] | None:
        """Fingerprint of the data that a statistic is of."""
        return self.origins.get(name, self.data)

    def sigma(self, target: Target) -> Tensor:
        """[k] float64, the singular values of the target's weight.

        Raises:
            PlanError: if there are no spectra.
        """
        if target.name not in self._sigma:
            self.keep(target.name, self._spectrum(target).sigma)
        return self._sigma[target.name]

    def scores(self, target: Target) -> DirectionScores:
        """The Fisher scores of the target's directions.

        Raises:
            PlanError: if there are no spectra or no curvature.
        """
        if target.name in self._scores:
            return self._scores[target.name]
        pair = self.of("curvature", target.name).pair(target.name, weight_matrix(target))
        return self.score(target, self._spectrum(target), pair)

    def score(self, target: Target, spectrum: Spectrum, pair: tuple[Tensor, Tensor]) -> DirectionScores:
        """Score the directions of one target, from the moments that `Curvature.pair` gives, and keep the result."""
        scores = score_directions(spectrum, *pair, target.shape)
        self.keep(target.name, spectrum.sigma, scores)
        return scores

    def keep(self, name: str, sigma: Tensor, scores: DirectionScores | None = None) -> None:
        """Remember what was found of one target; plans are then made without its weight."""
        self._sigma[name] = sigma
        if scores is not None:
            self._scores[name] = scores

    def _spectrum(self, target: Target) -> Spectrum:
        if self.spectra is None:
            raise PlanError("the method needs the spectrum of every weight, and none is available", where=target.name)
        return self.spectra(target)


class Method(Protocol):
    """One way to fine-tune."""

    @property
    def name(self) -> str:
        """Registry name."""
        ...

    @property
    def summary(self) -> str:
        """One line for lists."""
        ...

    @property
    def needs(self) -> frozenset[str]:
        """What `Evidence` must hold: "spectrum", and names of statistics."""
        ...

    @property
    def trains(self) -> Literal["adapter", "weights"]:
        """What training updates: an adapter, or all weights."""
        ...

    def plan(self, targets: Sequence[Target], evidence: Evidence, config: FarssConfig) -> Plan:
        """The method's decision for these targets; reads everything, changes nothing."""
        ...


@dataclass(frozen=True)
class SpectralMethod:
    """A method that starts its adapters from chosen singular directions of the weights.

    Attributes:
        name: registry name.
        summary: one line for lists.
        score: what directions are ranked by: the Fisher score (Eq. 15) or the singular value.
        shallow: which end of the scores shallow modules take.
        deep: which end deep modules take.
        shallow_rank: rule for the rank of shallow modules: "inverse_fisher" (Eq. 9-12), "fixed" (r_avg), or "deep"
            (R, as for deep modules).
        selectable: whether `config.selection` replaces the directions. Methods that are named after their direction
            keep it, whatever the recipe says to the others.
        always_split: record shallow and deep regions even where both are treated alike.
        look: its label, colour and mark in tables and figures; made from the name if it has none.
        settings: the groups of `init` that it reads and methods like it do not.
        aids: classes of `farss.training.aids.TrainingAid`, of what it adds to training.
    """

    name: str
    summary: str
    score: Score
    shallow: Direction
    deep: Direction
    shallow_rank: RankRule = "deep"
    selectable: bool = False
    always_split: bool = False
    look: Look | None = None
    settings: tuple[type[MethodSettings], ...] = ()
    aids: tuple[type[TrainingAid], ...] = ()

    @property
    def needs(self) -> frozenset[str]:
        """The spectrum always, curvature where directions are ranked by Fisher score."""
        return frozenset({"spectrum", "curvature"} if self.score == "fisher" else {"spectrum"})

    @property
    def trains(self) -> Literal["adapter", "weights"]:
        """Adapters."""
        return "adapter"

    def plan(self, targets: Sequence[Target], evidence: Evidence, config: FarssConfig) -> Plan:
        """Ranks, directions and scales of every target.

        Args:
            targets: in model order.
            evidence: must hold what `needs` names.
            config: with `compat="published-code"`, first replaced by `published_code_config(config)`.

        Returns:
            Plan with initialisation "spectral".

        Raises:
            PlanError: if evidence is missing, a split is asked for modules outside layers, or there are more shallow
                layers than layers.
            NumericalError: if scores or importances are not finite, or a weight is zero.
        """
        config = published_code_config(config)
        regions = self._regions(targets, config)
        wanted = self._ranks(targets, regions, evidence, config)
        planned = tuple(
            self._plan_target(target, region, rank, evidence, config)
            for target, region, rank in zip(targets, regions, wanted, strict=True)
        )
        warn_capped(self.name, wanted, planned)
        shallow = [target for target in planned if target.region == "shallow"]
        fisher = self.score == "fisher"
        return Plan(
            method=self.name,
            initialisation="spectral",
            base=config.base,
            model_fingerprint=evidence.model_fingerprint,
            settings=plan_settings(self, config),
            targets=planned,
            data=evidence.data_of("curvature") if fisher else None,
            factor_scaling="published" if fisher and config.compat == "published-code" else "divided",
            requested_rank_total=self._requested(len(shallow), config),
            realised_rank_total=sum(target.rank for target in shallow),
        )

    def direction(self, region: Region, rank: int, config: FarssConfig) -> Direction:
        """Which end of the scores a module of this region and rank takes under `config.selection`."""
        if self.selectable:
            if config.selection in ("low", "high"):
                return config.selection
            if config.selection == "low_shallow_high_deep":
                return "low" if region == "shallow" else "high"
            if config.selection == "rank_rule":
                return "low" if rank < RANK_RULE_THRESHOLD else "high"
        return self.shallow if region == "shallow" else self.deep

    def splits(self, config: FarssConfig) -> bool:
        """Whether shallow and deep modules are told apart under this configuration."""
        by_selection = self.selectable and config.selection == "low_shallow_high_deep"
        return self.always_split or by_selection or self.shallow_rank != "deep" or self.shallow != self.deep

    def _regions(self, targets: Sequence[Target], config: FarssConfig) -> list[Region]:
        if not self.splits(config):
            return ["deep"] * len(targets)
        count = shallow_layer_count(targets, config)
        return ["shallow" if target.layer is not None and target.layer < count else "deep" for target in targets]

    def _ranks(
        self, targets: Sequence[Target], regions: Sequence[Region], evidence: Evidence, config: FarssConfig
    ) -> list[int]:
        """The rank asked for each target, before it is capped by the module's size."""
        ranks = [config.r_avg if r == "shallow" and self.shallow_rank == "fixed" else config.rank for r in regions]
        shallow = [i for i, region in enumerate(regions) if region == "shallow"]
        if self.shallow_rank != "inverse_fisher" or not shallow:
            return ranks
        importance = [evidence.scores(targets[i]).importance for i in shallow]
        if config.compat == "published-code":
            importance = published_importance(importance)
        allocation = allocate(
            importance,
            r_min=config.r_min,
            r_avg=config.r_avg,
            r_max=config.r_max,
            limits=[min(targets[i].shape) for i in shallow],
            budget=config.budget,
            epsilon=config.epsilon,
        )
        for index, rank in zip(shallow, allocation.ranks, strict=True):
            ranks[index] = rank
        return ranks

    def _requested(self, modules: int, config: FarssConfig) -> int:
        return modules * (config.rank if self.shallow_rank == "deep" else config.r_avg)

    def _plan_target(
        self, target: Target, region: Region, rank: int, evidence: Evidence, config: FarssConfig
    ) -> TargetPlan:
        scores = evidence.scores(target) if self.score == "fisher" else None
        sigma = evidence.sigma(target)  # after the scores, which already fetched the spectrum
        log_s = sigma.log() if scores is None else scores.log_s
        direction = self.direction(region, rank, config)
        chosen = select(log_s.cpu(), sigma.cpu(), min(rank, len(sigma)), direction, seed=config.seed)
        return TargetPlan(
            name=target.name,
            layer=target.layer,
            region=region,
            shape=target.shape,
            rank=len(chosen),
            scale=adapter_scale(len(chosen), config),
            indices=chosen,
            importance=None if scores is None else scores.importance,
            log_score_quantiles=quantiles(log_s),
        )


def shallow_layer_count(targets: Sequence[Target], config: FarssConfig) -> int:
    """The number of shallow layers: the configured one, else about a fifth of the layers.

    With `compat="published-code"` the configured number is the index of the last shallow layer, and 0 if unset.

    Raises:
        PlanError: if a target belongs to no layer, or there are more shallow layers than layers.
    """
    outside = [target.name for target in targets if target.layer is None]
    if outside:
        raise PlanError(
            "shallow and deep layers are treated differently, and a module belongs to no layer",
            where=", ".join(outside[:3]) + (f" and {len(outside) - 3} more" if len(outside) > 3 else ""),
            do="list it under `exclude`, or use a method without a split such as farss-init",
        )
    layers = layer_count(targets)
    if config.compat == "published-code":
        count = (config.shallow_layers or 0) + 1
    elif config.shallow_layers is None:
        count = default_shallow_layers(layers)
    else:
        count = config.shallow_layers
    if count > layers:
        raise PlanError(
            "more shallow layers than layers", where="shallow_layers", expected=f"at most {layers}", got=count
        )
    return count


def adapter_scale(rank: int, config: FarssConfig) -> float:
    """The factor in front of BA: 1, alpha / r or alpha / sqrt(r)."""
    if config.scale == "unit":
        return 1.0
    return config.alpha / (rank if config.scale == "alpha_over_r" else rank**0.5)


def quantiles(log_s: Tensor) -> tuple[float, ...] | None:
    """Quantiles of the logarithms of the scores that are not zero; None if all are."""
    finite = log_s[torch.isfinite(log_s)].cpu().numpy()
    return tuple(float(q) for q in np.quantile(finite, QUANTILES)) if finite.size else None


def warn_capped(method: str, wanted: Sequence[int], planned: Sequence[TargetPlan]) -> None:
    """Warn once if modules got less than the rank asked for, with their number."""
    capped = [target for target, rank in zip(planned, wanted, strict=True) if target.rank < rank]
    if capped:
        warnings.warn(
            f"{method}: {len(capped)} of {len(planned)} modules have fewer usable directions than the rank asked for "
            f"and got what they have (for example {capped[0].name}: {capped[0].rank})",
            RankCapWarning,
            stacklevel=3,
        )
