"""Whom a training is reported to: transformers' own callbacks, with their files beside the checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from farss.training.checkpoints import LOGS


def trackers(names: Sequence[str], folder: Path) -> list[TrainerCallback]:
    """The callbacks that tell trackers of a training.

    Args:
        names: of `farss.train_settings.TRACKERS`, whose packages are installed.
        folder: of the training's checkpoints.
    """
    found = [INTEGRATION_TO_CALLBACK[name]() for name in names]
    for callback in found:
        if hasattr(callback, "logging_dir"):
            callback.logging_dir = str(folder / LOGS)
    return found
