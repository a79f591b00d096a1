"""What methods add to training, of farss itself and of other packages."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from farss.adapters.provenance import provenance_of
from farss.methods import METHODS, get_method
from farss.training.aids import TrainingAid


def aids_of_method(method: object) -> tuple[type[TrainingAid], ...]:
    """The kinds of aids that a method brings: its `aids`, if it has any."""
    return getattr(method, "aids", ())


def aids_of_methods(methods: Iterable[str]) -> list[type[TrainingAid]]:
    """The kinds of aids that trainings of these methods have."""
    return [kind for method in methods for kind in aids_of_method(get_method(method))]


def aids_of(model: nn.Module) -> list[TrainingAid]:
    """The aids that training `model` has: those whose adapter it carries, and those of another package's method.

    Raises:
        AdapterError: if the adapter needs one and its plan, which has its settings, is not known.
        ConfigError: if the method is not installed.
    """
    kinds = [kind for kind in aids_of_methods(METHODS) if kind.serves(model)]
    made = provenance_of(model)
    if made is not None and made.plan.method not in METHODS:
        kinds += aids_of_methods([made.plan.method])
    return [kind(model) for kind in kinds]
