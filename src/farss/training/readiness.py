"""What can be known to fail before a model is loaded: packages that are not there, schedules that cannot be made."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

from farss.config import TrainConfig
from farss.errors import ConfigError
from farss.foreign import foreign
from farss.train_settings import OPTIMISERS, SCHEDULES
from farss.training.aids import TrainingAid
from farss.training.arguments import total_steps, warmup_steps
from farss.training.tasks import APART

INSTALLED_AS = {"optimi": "torch-optimi"}
"""Packages that are installed under another name than they are imported by."""
NO_SETTINGS = ("constant", "constant_with_warmup")
"""Schedules that read no settings of their own; transformers would pass over them in silence."""


def check_training(config: TrainConfig, aids: Iterable[type[TrainingAid]] = (), rows: int = 1) -> None:
    """Make sure that the packages that a training needs are there, and that its schedule can be made.

    Args:
        config: of the training.
        aids: of the methods that it trains.
        rows: that it trains on, as far as they are known.

    Raises:
        ConfigError: naming the setting, and the package where one is missing.
    """
    package = OPTIMISERS[config.optim]
    if package is not None and importlib.util.find_spec(package) is None:
        raise _missing(f"the optimiser `{config.optim}`", package, "optim")
    _check_trackers(config)
    _check_schedule(config, rows)
    for aid in aids:
        aid.check_settings(config)


def check_classifier_training(config: TrainConfig, aids: Iterable[type[TrainingAid]]) -> None:
    """As `check_training`, for classifiers, of whose trainings nothing but the end is kept.

    Raises:
        ConfigError: naming the setting that they do not have, or as `check_training`.
    """
    if config.packing:
        raise ConfigError(APART, where="train.packing", do="leave it out")
    if config.trackers:
        raise ConfigError(
            "trainings on GLUE are not reported to a tracker",
            where="train.report_to",
            do="leave it out: the loss of every step is in done.json of its folder",
        )
    check_training(config, aids)


def _check_trackers(config: TrainConfig) -> None:
    if not config.trackers:
        return
    from transformers.integrations import get_available_reporting_integrations

    there = get_available_reporting_integrations()
    for name in config.trackers:
        if name not in there:
            raise _missing(f"reporting to {name}", name, "report_to")


def _check_schedule(config: TrainConfig, rows: int) -> None:
    """Make the schedule over a single number, so that settings it does not know or needs are said now."""
    import torch
    from transformers import get_scheduler

    if config.lr_scheduler_kwargs and config.schedule in NO_SETTINGS:
        raise ConfigError(
            f"the schedule `{config.schedule}` has no settings",
            where="lr_scheduler_kwargs",
            got=", ".join(config.lr_scheduler_kwargs),
            do="leave them out",
        )
    steps = total_steps(rows, config)
    alone = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.learning_rate)
    hint = f"see transformers' schedule {SCHEDULES[config.schedule]}"
    with foreign(ConfigError, "the schedule cannot be made of its settings", where="lr_scheduler_kwargs", do=hint):
        get_scheduler(
            SCHEDULES[config.schedule],
            alone,
            num_warmup_steps=warmup_steps(steps, config),
            num_training_steps=steps,
            scheduler_specific_kwargs=dict(config.lr_scheduler_kwargs),
        )


def _missing(what: str, package: str, where: str) -> ConfigError:
    name = INSTALLED_AS.get(package, package)
    return ConfigError(
        f"{what} needs a package that is not installed", where=where, got=name, do=f"run `pip install {name}`"
    )
