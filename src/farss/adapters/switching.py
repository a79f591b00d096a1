"""One loaded base model, several adapters after each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from farss.adapters.files import PLAN_FILE, REMOVED_FILE, load_adapter
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
    """
    kept = _weights_it_changes(base, Path(folder))
    model = load_adapter(base, folder, trainable=False, fingerprint=fingerprint)
    replaced = _modules_it_replaces(base)
    try:
        yield model
    finally:
        model.unload()
        for name, module in replaced.items():  # PEFT leaves the adapter's own ones in their places
            parent, _, child = name.rpartition(".")
            setattr(base.get_submodule(parent), child, module)
        with torch.no_grad():
            for name, weight in kept.items():
                base.get_parameter(name).copy_(weight)


def _weights_it_changes(base: nn.Module, folder: Path) -> dict[str, torch.Tensor]:
    """Copies of the weights that an adapter may change when it is loaded: those of the residual form, and biases."""
    names = [name for name, _ in base.named_parameters() if "bias" in name]  # PEFT loads trained ones in place
    if (folder / REMOVED_FILE).exists():
        names += [f"{row.name}.weight" for row in Plan.load(folder / PLAN_FILE).targets]
    return {name: base.get_parameter(name).detach().clone() for name in names}


def _modules_it_replaces(base: nn.Module) -> dict[str, nn.Module]:
    """The base's own modules of those that an adapter brings whole (`modules_to_save`), by name."""
    from peft.utils.other import ModulesToSaveWrapper

    return {
        name: module.original_module
        for name, module in base.named_modules()
        if isinstance(module, ModulesToSaveWrapper)
    }
