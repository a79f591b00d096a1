"""Two adapters as one: the trained factors, and the frozen ones they started from with the sign turned.

Their sum is `s (B A - B0 A0)`: zero at the start, so the base weights stay as they are. Both are ordinary PEFT
adapters; what is added here keeps them together: the frozen one never learns, and both see the same dropped inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional

from farss.adapters.factors import Factors
from farss.adapters.layers import DEFAULT, REFERENCE, lora_layers
from farss.errors import AdapterError

if TYPE_CHECKING:
    from peft import PeftModel


class FrozenLinear(nn.Linear):
    """A linear map that passes gradients on but takes none.

    PEFT marks the weights of every active adapter trainable again when adapters are switched off and on; the weight
    is therefore detached here, and no optimiser can move it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`x @ weight.T`, [..., n] to [..., m]."""
        return functional.linear(x, self.weight.detach())


class SharedDropout(nn.Dropout):
    """Dropout that keeps its latest output until `RepeatedDropout` takes it."""

    latest: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """`x` with entries dropped while training."""
        output = super().forward(x)
        self.latest = output if self.training else None
        return output

    def __getstate__(self) -> dict[str, Any]:
        # An output belongs to one forward pass: copies and pickles of the model do without it.
        return {**self.__dict__, "latest": None}


class RepeatedDropout(nn.Module):
    """The output that the partner's dropout has just computed from the same input.

    Taking the tensor rather than its mask holds under gradient checkpointing, where the recomputation runs both
    adapters again in the same order, and costs no second draw.
    """

    def __init__(self, source: SharedDropout) -> None:
        super().__init__()
        self.source = source

    def forward(self, x: Tensor) -> Tensor:
        """The partner's output, in the dtype of `x`.

        Raises:
            AdapterError: while training, if the trained adapter has not run just before.
        """
        if not self.source.training:
            return x
        latest, self.source.latest = self.source.latest, None
        if latest is None or latest.shape != x.shape:
            raise AdapterError(
                f"adapter `{REFERENCE}` is active without `{DEFAULT}` before it",
                do="call `farss.adapters.pairs.activate(model)` after switching adapters",
            )
        return latest.to(x.dtype)


def is_pair(model: nn.Module) -> bool:
    """Whether `model` is a PEFT model in the reference-subtracted form."""
    return {DEFAULT, REFERENCE} <= set(getattr(model, "peft_config", {}))


def add_reference(model: PeftModel, initial: Mapping[str, Factors]) -> None:
    """Add the frozen adapter that subtracts `initial` and activate it beside the trained one.

    Args:
        model: a PEFT model with the adapter "default".
        initial: B0 [m, r] and A0 [r, n] per module.
    """
    from dataclasses import replace

    config = replace(model.peft_config[DEFAULT], lora_dropout=0.0, init_lora_weights=True, inference_mode=True)  # type: ignore[type-var]  # every PEFT config is a dataclass
    model.add_adapter(REFERENCE, config)
    for name, layer in lora_layers(model).items():
        write_factors(layer, REFERENCE, Factors(-initial[name].up, initial[name].down))
    join(model)


def write_factors(layer: Any, adapter: str, factors: Factors) -> None:
    """Put `factors` into one adapter of one LoRA layer, in their own dtype."""
    layer.lora_A[adapter].weight.data = factors.down.clone()
    layer.lora_B[adapter].weight.data = factors.up.clone()


def join(model: PeftModel) -> None:
    """Tie the two adapters of `model` together: the reference frozen, its dropout repeated, both active."""
    for layer in lora_layers(model).values():
        for part in (layer.lora_A, layer.lora_B):
            part[REFERENCE] = _frozen(part[REFERENCE])
        dropout = layer.lora_dropout[DEFAULT]
        if isinstance(dropout, nn.Dropout):
            shared = SharedDropout(dropout.p).train(dropout.training)
            layer.lora_dropout[DEFAULT] = shared
            layer.lora_dropout[REFERENCE] = RepeatedDropout(shared).train(dropout.training)
    activate(model)


def activate(model: PeftModel, *, trainable: bool = True) -> None:
    """Make both adapters of a pair active, only "default" trainable.

    PEFT's own `set_adapter("default")` would leave the reference out and add `s B0 A0` to every weight; call this after
    anything that switches adapters, such as resuming from a checkpoint.

    Args:
        model: a PEFT model in the reference-subtracted form; others are left as they are.
        trainable: whether the factors of "default" require gradients.
    """
    if not is_pair(model):
        return
    model.base_model.set_adapter([DEFAULT, REFERENCE], inference_mode=not trainable)  # type: ignore[operator]
    model.active_adapter = DEFAULT
    for layer in lora_layers(model).values():
        for part in (layer.lora_A, layer.lora_B):
            part[REFERENCE].requires_grad_(False)


def _frozen(linear: nn.Module) -> FrozenLinear:
    assert isinstance(linear, nn.Linear)
    frozen = FrozenLinear(linear.in_features, linear.out_features, bias=False, device="meta")
    frozen.weight = linear.weight
    frozen.train(linear.training)
    return frozen
