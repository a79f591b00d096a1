"""In what precision training computes, and in what it keeps what it learns.

Learned weights are always float32 (float64 in a float64 model): a bfloat16 weight has 8 bits, and most updates of a
fine-tuning learning rate are smaller than its last one. bfloat16 is used for the arithmetic only, by autocast, which
casts each learned weight once per pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from torch import nn

from farss.adapters.magnitude import has_magnitudes
from farss.model.arithmetic import HALF


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
