"""A callback of transformers' Trainer out of functions."""

from __future__ import annotations

from collections.abc import Callable

from transformers import TrainerCallback


class Calls(TrainerCallback):
    """Calls a function at each named event, `on_optimizer_step` for example."""

    def __init__(self, **events: Callable[..., None]) -> None:
        for event, function in events.items():
            setattr(self, event, function)
