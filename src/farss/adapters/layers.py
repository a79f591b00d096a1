"""The LoRA layers of a model, by the name their module has in the base model."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from torch import Tensor, nn

from farss.errors import AdapterError

if TYPE_CHECKING:
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

DEFAULT = "default"


def base_of(model: nn.Module) -> nn.Module:
    """The model inside a PEFT wrapper, its LoRA layers still in place; any other model is returned as it is."""
    from peft import PeftModel

    return model.get_base_model() if isinstance(model, PeftModel) else model


def lora_layers(model: nn.Module) -> dict[str, LoraLayer]:
    """The LoRA layers of `model`, keyed by the dotted name of the module they replaced, in model order."""
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in base_of(model).named_modules() if isinstance(module, LoraLayer)}


def trained_adapter(model: nn.Module) -> str:
    """The name of the adapter that is in use: `default`, unless it was renamed or another one was activated."""
    from peft import PeftModel

    names = list(model.active_adapters) if isinstance(model, PeftModel) else []
    return names[0] if len(names) == 1 else DEFAULT


def refuse_adapters(model: nn.Module) -> None:
    """Check that `model` is a plain base model.

    Raises:
        AdapterError: if it is a PEFT model or some of its modules already carry adapters.
    """
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = [name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    if isinstance(model, PeftModel) or adapted:
        raise AdapterError(
            "the model already carries an adapter",
            got=f"{len(adapted)} adapted modules",
            expected="a base model",
            do="load the base model again, or call `unload()` on the PEFT model",
        )


def copy_base(model: PeftModel) -> nn.Module:
    """A copy of the base model inside `model`, without adapters; nothing is shared with `model`."""
    base = copy.deepcopy(model.get_base_model())
    for name, layer in lora_layers(base).items():
        parent, _, child = name.rpartition(".")
        setattr(base.get_submodule(parent), child, layer.base_layer)
    if hasattr(base, "peft_config"):
        del base.peft_config
    return base


def set_mode(model: PeftModel, training: bool) -> None:
    """Give the adapter modules of `model`, which begin in training mode, the mode of the model they joined."""
    for module in (model, model.base_model):
        module.training = training
    for layer in lora_layers(model).values():
        layer.train(training)  # type: ignore[attr-defined]  # every concrete LoRA layer is a module


def oriented(layer: nn.Module, matrix: Tensor) -> Tensor:
    """`matrix`, [m, n], in the layout of the weight of `layer`, which is [n, m] for a transposed linear (Conv1D)."""
    from transformers.pytorch_utils import Conv1D

    return matrix.T if isinstance(layer, Conv1D) else matrix


def weight_shape(module: nn.Module) -> tuple[int, int] | None:
    """(m, n), out-features by in-features, of a linear module; None for any other module."""
    from transformers.pytorch_utils import Conv1D

    if not isinstance(module, (nn.Linear, Conv1D)):
        return None
    shape = tuple(module.weight.shape)
    if len(shape) != 2:
        return None
    return (shape[1], shape[0]) if isinstance(module, Conv1D) else (shape[0], shape[1])
