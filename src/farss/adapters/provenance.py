"""What a PEFT model made by farss was made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from farss.errors import AdapterError
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


def settings_of(model: nn.Module, group: str, what: str) -> dict[str, Any]:
    """One group of the settings that the plan of `model` was made with.

    Args:
        model: a PEFT model made by `apply` or `load_adapter`.
        group: its name.
        what: it says, for the message.

    Raises:
        AdapterError: if the plan is not known, or has no such group.
    """
    provenance = provenance_of(model)
    if provenance is None or group not in provenance.plan.settings:
        raise AdapterError(
            f"nothing says {what}",
            expected=f"a plan with the settings `{group}`",
            do="load a folder of `farss.adapters.files.save_adapter`, which keeps the plan beside the adapter",
        )
    found: dict[str, Any] = provenance.plan.settings[group]
    return found
