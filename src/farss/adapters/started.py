"""PEFT's LoRA layer with sides of ours: one adapter to PEFT, whatever it is made of."""

from __future__ import annotations

from typing import Any

from peft.tuners.lora import Linear
from torch import Tensor

from farss.adapters.shapes import shape_of
from farss.adapters.sides import HeldLinear, Side


class StartedLinear(Linear):
    """A LoRA layer whose adapters have the shape that their configuration is marked with, or PEFT's own.

    An adapter that is added with the marked configuration of another, as TRL does for the reference of a preference
    training, gets the same shape, so that its parameters can be copied by name.
    """

    def update_layer(self, adapter_name: str, r: int, lora_alpha: float, config: Any, **kwargs: Any) -> None:
        """Add an adapter of rank `r` as PEFT does, and give it its shape."""
        shape = shape_of(config)
        share = 1 if shape is None else shape.share
        super().update_layer(adapter_name, r // share, lora_alpha / share, config, **kwargs)  # type: ignore[arg-type]  # a float is as good
        if shape is not None:
            shape.shape_(self, adapter_name)
            self.r[adapter_name], self.lora_alpha[adapter_name] = r, lora_alpha  # type: ignore[assignment]
            self.scaling[adapter_name] = lora_alpha / (r**0.5 if config.use_rslora else r)
            self._freeze_starts()

    def set_adapter(self, adapter_names: Any, inference_mode: bool = False) -> None:
        """Switch adapters; what an adapter started from stays frozen."""
        super().set_adapter(adapter_names, inference_mode)
        self._freeze_starts()

    def set_requires_grad(self, adapter_names: Any, requires_grad: bool = True) -> None:
        """Switch gradients; what an adapter started from stays frozen."""
        super().set_requires_grad(adapter_names, requires_grad)
        self._freeze_starts()

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The base's output and what the active adapters add.

        PEFT reads `lora_A.weight` for its dtype before every pass, and a weight of ours is put together when it is
        read; so the common case, one active adapter, is computed here.
        """
        name = self.active_adapters[0] if self.active_adapters else ""
        side = self.lora_A[name] if name in self.lora_A.keys() else None  # noqa: SIM118  # no mapping
        alone = len(self.active_adapters) == 1 and kwargs.get("adapter_names") is None
        if not isinstance(side, Side) or not alone or self.disable_adapters or self.merged:
            return super().forward(x, *args, **kwargs)
        result = self.base_layer(x, *args, **kwargs)
        seen = self.lora_dropout[name](self._cast_input_dtype(x, side.factor.dtype))
        return (result + self.lora_B[name](side(seen)) * self.scaling[name]).to(result.dtype)

    def _freeze_starts(self) -> None:
        for part in (self.lora_A, self.lora_B):
            for side in part.values():
                if isinstance(side, (Side, HeldLinear)):
                    side.freeze_()
