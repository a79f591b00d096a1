"""In what precision training computes, and in what it keeps what it learns.

Learned weights are always float32 (float64 in a float64 model): a bfloat16 weight has 8 bits, and most updates of a
fine-tuning learning rate are smaller than its last one. bfloat16 is used for the arithmetic only, by autocast, which
casts each learned weight once per pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn

from farss.adapters.magnitude import has_magnitudes

HALF = (torch.bfloat16, torch.float16)


def computes_in_bfloat16(precision: Literal["auto", "float32", "bfloat16"], model: nn.Module) -> bool:
    """Whether to train `model` under bfloat16 autocast.

    Args:
        precision: "auto" says yes where the device has bfloat16 instructions and the model is not float64; "float32"
            says no, and then a model loaded in bfloat16 still computes in its own dtype.
        model: on the device it will be trained on.
    """
    if precision != "auto":
        return precision == "bfloat16"
    parameter = next(model.parameters())
    return parameter.dtype is not torch.float64 and _has_bfloat16(parameter.device)


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        # oneDNN also "supports" it by emulation, several times slower than float32; these have it in hardware.
        known = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
        return any(supported is not None and supported() for supported in known)
    return False


def keep_learned_weights_exact_(model: nn.Module, trains: Literal["adapter", "weights"]) -> None:
    """Turn half-precision weights that will be trained into float32, in place.

    With "weights" the whole model becomes float32, so that its modules agree in dtype; with "adapter" only the
    trainable parameters do, and the base keeps its dtype.
    """
    learned = [p for p in model.parameters() if p.requires_grad and p.dtype in HALF]
    if trains == "weights":
        if learned:
            model.float()
        return
    for parameter in learned:
        parameter.data = parameter.data.float()


@contextmanager
def inputs_as_they_come(model: nn.Module, active: bool) -> Iterator[None]:
    """While bfloat16 autocast is in use, stop PEFT from casting the inputs of adapters.

    PEFT casts every input up to the dtype of the adapter's weights, and autocast casts it down again: a copy of all
    activations, twice, for nothing. DoRA keeps it: PEFT takes the norms of the weights in the dtype of the input, and
    norms rounded to bfloat16 would move every row of the weight.
    """
    from peft.helpers import disable_input_dtype_casting

    with disable_input_dtype_casting(model, active and not has_magnitudes(model)):
        yield
