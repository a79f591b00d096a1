"""The statistics that methods are planned from: those of farss, and those that a method brings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from farss.config import FarssConfig
from farss.methods.start_settings import StartConfig
from farss.model.cost import curvature_bytes, gradient_bytes, input_moment_bytes
from farss.model.targets import Target
from farss.statistics.curvature import collect
from farss.statistics.gradients import Gradients, collect_gradients
from farss.statistics.inputs import InputMoments, collect_inputs
from farss.statistics.kinds import Pass, Statistic
from farss.statistics.layer_fisher import LayerFisher, collect_layer_fisher
from farss.statistics.moments import Curvature
from farss.statistics.summed import Summed

SPECTRUM = "spectrum"
"""What of a method's `needs` is no statistic: it is of the weights alone."""


def _curvature(taken: Pass) -> Curvature:
    config = taken.config
    return collect(
        taken.model,
        taken.batches,
        taken.targets,
        tokens=config.tokens,
        loss_norm=config.loss_norm,
        fisher=config.fisher,
        max_batches=config.max_batches,
        seed=config.seed,
        progress=taken.progress,
        keep=taken.keep,
    )


def _layer_fisher(taken: Pass) -> LayerFisher:
    config = taken.config
    return collect_layer_fisher(
        taken.model,
        taken.batches,
        taken.targets,
        fisher=config.fisher,
        max_batches=config.max_batches,
        seed=config.seed,
        progress=taken.progress,
        keep=taken.keep,
    )


def _gradients(taken: Pass) -> Gradients:
    return collect_gradients(
        taken.model,
        taken.batches,
        taken.targets,
        max_batches=taken.config.max_batches,
        progress=taken.progress,
        keep=taken.keep,
    )


def _inputs(taken: Pass) -> InputMoments:
    return _moments(taken, taken.config.tokens)


def _of_questions(taken: Pass) -> InputMoments:
    return _moments(taken, "nonpad")  # questions have no response


def _moments(taken: Pass, tokens: str) -> InputMoments:
    return collect_inputs(
        taken.model,
        taken.batches,
        taken.targets,
        tokens=tokens,  # pyright: ignore[reportArgumentType]  # one of the configuration's choices
        sample_scale="signed_maximum" if _scaled(taken.config) else "none",
        max_batches=taken.config.max_batches,
        progress=taken.progress,
        keep=taken.keep,
    )


def _scaled(config: FarssConfig) -> bool:
    return config.of(StartConfig).covariance_scale == "signed_maximum"


def _covariance_scale(config: FarssConfig) -> str:
    return config.of(StartConfig).covariance_scale


def _moment_bytes(targets: Sequence[Target], dtype: torch.dtype, config: FarssConfig) -> int:
    # Sums of sequences as they are and scaled are both kept.
    return input_moment_bytes(targets, dtype, 2 if _scaled(config) else 1)


CURVATURE = Statistic(
    "curvature",
    "curvature on calibration data",
    _curvature,
    Curvature.load,
    lambda targets, dtype, config: curvature_bytes(targets, dtype),
    file="stats.safetensors",
)
LAYER_FISHER = Statistic(
    "layer_fisher",
    "layer scores on calibration data",
    _layer_fisher,
    LayerFisher.load,
    lambda targets, dtype, config: 8 * len(targets),
)
INPUTS = Statistic(
    "input_covariance",
    "second moments of inputs on calibration data",
    _inputs,
    InputMoments.load,
    _moment_bytes,
    reads=_covariance_scale,
)
KNOWLEDGE = Statistic(
    "knowledge_covariance",
    "second moments of inputs on knowledge questions",
    _of_questions,
    InputMoments.load,
    _moment_bytes,
    data="knowledge",
    reads=_covariance_scale,
)
GRADIENT = Statistic(
    "gradient",
    "weight gradients on calibration data",
    _gradients,
    Gradients.load,
    lambda targets, dtype, config: gradient_bytes(targets, dtype),
)

OWN: dict[str, Statistic[Summed]] = {one.name: one for one in (CURVATURE, LAYER_FISHER, INPUTS, KNOWLEDGE, GRADIENT)}
"""Those of farss by name, in the order in which they are taken."""


def brought(method: object) -> tuple[Statistic[Summed], ...]:
    """The statistics that a method brings: its `statistics`, if it has any."""
    return getattr(method, "statistics", ())


def statistics_of(methods: Iterable[object]) -> dict[str, Statistic[Summed]]:
    """The statistics that methods need, by name: those of farss first, each once."""
    methods = list(methods)
    needs = frozenset[str]().union(*(getattr(method, "needs", frozenset()) for method in methods))
    known = OWN | {one.name: one for method in methods for one in brought(method)}
    return {name: one for name, one in known.items() if name in needs}
