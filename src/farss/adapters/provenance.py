"""What a PEFT model made by farss was made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from farss.model.plan import Plan

if TYPE_CHECKING:
    from peft import PeftModel

# Kept on the PEFT wrapper, which is ours, and never on the user's base model; so copies of the wrapper carry it too.
_ATTRIBUTE = "farss_provenance"


@dataclass(frozen=True)
class Provenance:
    """What an adapter was made from.

    Attributes:
        plan: the plan that was applied, without its factors.
    """

    plan: Plan


def remember(model: PeftModel, provenance: Provenance) -> None:
    """Attach `provenance` to a PEFT model."""
    object.__setattr__(model, _ATTRIBUTE, provenance)


def provenance_of(model: nn.Module) -> Provenance | None:
    """The provenance attached to `model`, or None for a model farss did not make."""
    return vars(model).get(_ATTRIBUTE)
