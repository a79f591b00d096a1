"""How much of a model's blocks the adapted modules are, and what is left as it is: experts, other towers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from farss.model.targets import Target, chain_prefixes, language_tower, output_head

NAMED = 3
"""So many kinds of weights are named, the largest first."""


class LeftOutWarning(UserWarning):
    """A large part of the model is not reached by the adapter."""


@dataclass(frozen=True)
class Coverage:
    """Weights of a model, by what an adapter reaches.

    Attributes:
        adapted: in the modules that are adapted.
        blocks: in the language model's blocks, adapted or not.
        stacked: of the blocks', in parameters that hold several matrices (experts), by the end of their names.
        beside: outside the language model, in other towers.
        tower: the language model's name in a model of several towers, else "".
    """

    adapted: int
    blocks: int
    stacked: dict[str, int]
    beside: int
    tower: str

    @property
    def share(self) -> float:
        """The adapted part of the blocks' weights, 0 to 1."""
        return self.adapted / self.blocks if self.blocks else 1.0

    def to_mapping(self) -> dict[str, Any]:
        """As JSON, with the share."""
        return {
            "share_of_blocks": self.share,
            "stacked_share": sum(self.stacked.values()) / self.blocks if self.blocks else 0.0,
            "stacked": sorted(self.stacked),
            "language_model": self.tower or None,
            "weights_beside": self.beside,
        }

    def notes(self) -> list[str]:
        """What a user should know before the pass, one line each; none where the blocks' modules are all linear."""
        found = []
        if self.stacked:
            largest = sorted(self.stacked, key=lambda name: -self.stacked[name])[:NAMED]
            left = sum(self.stacked.values()) / self.blocks
            found.append(
                f"{left:.0%} of the blocks' weights are left as they are: experts, which are no linear modules "
                f"({', '.join(largest)}); the adapter reaches {self.share:.0%}, while training all weights trains them"
            )
        if self.tower:
            found.append(
                f"the model is more than a language model: `{self.tower}` is adapted, {self.beside:,} weights "
                "beside it are left as they are, and every export is for the whole model"
            )
        return found


def coverage(model: nn.Module, targets: Sequence[Target]) -> Coverage:
    """What the adapted modules are of a model, whose weights may be elsewhere."""
    tower = language_tower(model)
    inside = tuple(f"{prefix}." for prefix in chain_prefixes(model))
    head = output_head(model)
    kept = {id(parameter) for parameter in head.parameters()} if isinstance(head, nn.Module) else set()
    blocks = beside = 0
    stacked: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if name.startswith(inside):
            blocks += parameter.numel()
            if parameter.ndim > 2 and parameter.shape[0] > 1 and "conv" not in name:
                kind = ".".join(part for part in name.split(".")[-2:])
                stacked[kind] = stacked.get(kind, 0) + parameter.numel()
        elif tower and not name.startswith(f"{tower}.") and id(parameter) not in kept:
            beside += parameter.numel()
    adapted = sum(target.shape[0] * target.shape[1] for target in targets if target.layer is not None)
    return Coverage(adapted, blocks, stacked, beside, tower)


def say_what_is_left(model: nn.Module, targets: Sequence[Target]) -> Coverage:
    """The coverage, with a warning for each thing a user should know; the same warning is shown once."""
    found = coverage(model, targets)
    for note in found.notes():
        warnings.warn(note, LeftOutWarning, stacklevel=1)  # from here always, so that a repetition is known as one
    return found
