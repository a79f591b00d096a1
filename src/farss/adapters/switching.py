"""One loaded base model, several adapters after each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from farss.adapters.accounting import base_weights, kept
from farss.adapters.files import PLAN_FILE, load_adapter, read_config, tensors_of
from farss.model.plan import Plan

if TYPE_CHECKING:
    from peft import PeftModel


@contextmanager
def adapted(base: nn.Module, folder: str | Path, *, fingerprint: str | None = None) -> Iterator[PeftModel]:
    """The base model with a saved adapter for the block; exactly the base model, to the bit, afterwards.

    Args:
        base: the base model.
        folder: the adapter, as for `load_adapter`.
        fingerprint: of `base`, where it is known already.

    Raises:
        AdapterError: if the folder is missing or damaged, or the adapter was made for another base model.
        NumericalError: if the base could not be brought back.
    """
    frozen = {name: parameter.requires_grad for name, parameter in base.named_parameters()}
    with kept(base, names=_weights_it_changes(base, Path(folder))):
        try:
            model = load_adapter(base, folder, trainable=False, fingerprint=fingerprint)
            yield model
        finally:
            _take_off(base)
            for name, parameter in base.named_parameters():
                parameter.requires_grad_(frozen.get(name, False))


def _weights_it_changes(base: nn.Module, folder: Path) -> set[str] | None:
    """The weights that an adapter may change when it is loaded; None where that is not known, and may be any."""
    config = read_config(folder)
    if config.get("kasa_config") or config.get("target_parameters"):
        return None
    # PEFT loads trained biases and embeddings in place.
    stored, _ = tensors_of(folder)
    names = set(base_weights(base, stored).values()) | {name for name, _ in base.named_parameters() if "bias" in name}
    plan = Plan.load(folder / PLAN_FILE) if (folder / PLAN_FILE).exists() else None
    if plan is not None and plan.base == "residual":
        names |= {f"{row.name}.weight" for row in plan.targets}
    return names


def _take_off(base: nn.Module) -> None:
    """Put the base's own modules back in their places, whatever PEFT has put around them, to the same objects."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    wrapped: dict[str, nn.Module] = {}
    for name, module in base.named_modules():
        if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)) and not name.startswith(
            tuple(f"{outer}." for outer in wrapped)
        ):
            wrapped[name] = module  # type: ignore[assignment]  # PEFT's layers are modules
    for name, own in wrapped.items():
        while isinstance(own, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
            own = own.get_base_layer() if isinstance(own, BaseTunerLayer) else own.original_module
        parent, _, child = name.rpartition(".")
        setattr(base.get_submodule(parent), child, own)
    if hasattr(base, "peft_config"):
        del base.peft_config
