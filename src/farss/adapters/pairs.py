"""Two adapters as one: the trained factors, and the frozen ones they started from with the sign turned.

Their sum is `s (B A - B0 A0)`: zero at the start, so the base weights stay as they are. Both are ordinary PEFT
adapters in files, weights and merging; in the forward pass the trained one computes the difference of the two, from
the same (dropped) input, as `(B - B0) A x + B0 (A - A0) x`. The differences are taken between the small factors, in
their own dtype: they vanish exactly where training has not moved them, nothing cancels between activations that were
rounded, and either side is a single product of width 2r.

KaSA's pair is two adapters that stay apart: the frozen one takes a part out of W for good, so it sees the whole input
and no difference has to vanish.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from farss.adapters.factors import Factors
from farss.adapters.gated import is_gated
from farss.adapters.layers import DEFAULT, REFERENCE, lora_layers
from farss.model.plan import Frozen

if TYPE_CHECKING:
    from peft import PeftModel

Kind = TypeVar("Kind", bound=nn.Linear)


class Nothing:
    """What adds nothing to a tensor: `x + nothing * s` is `x` itself, where adding a zero would be a pass over it."""

    __slots__ = ()

    def __mul__(self, scale: object) -> Nothing:
        return self

    def __radd__(self, x: Tensor) -> Tensor:
        return x

    def to(self, *args: object, **kwargs: object) -> Nothing:
        """Nothing, in every dtype and on every device."""
        return self


class FrozenLinear(nn.Linear):
    """A linear map whose weight takes no gradient.

    PEFT marks the weights of every active adapter trainable again when adapters are switched off and on; its partner
    therefore detaches the weight, and no optimiser can move it. In the forward pass of its own adapter it adds nothing:
    the partner computes the whole difference.
    """

    def forward(self, x: Tensor | Nothing) -> Nothing:  # type: ignore[override]  # what PEFT scales and adds
        """Nothing, whatever comes in."""
        return Nothing()


class PairedDown(nn.Linear):
    """`x` through A and through what training has changed of it, side by side: [..., n] to [..., 2r]."""

    initial: tuple[FrozenLinear]
    """The frozen partner, A0, in a tuple so that it is not registered as a part of this module."""

    held = False

    def forward(self, x: Tensor) -> Tensor:
        """`[A x, (A - A0) x]`; both see the same `x`, dropped entries included."""
        trained, initial = _weight(self), self.initial[0].weight.detach()
        return functional.linear(x, torch.cat([trained, trained - initial]))


class PairedUp(nn.Linear):
    """The two halves of `PairedDown` through `B - B0` and B0, added: [..., 2r] to [..., m].

    While B and A are where they started, one half is multiplied by zeros and the other is zero, so the sum is zero to
    the last bit in every dtype and by every kernel.
    """

    initial: tuple[FrozenLinear]
    """The frozen partner, which holds -B0."""

    held = False

    def forward(self, x: Tensor) -> Tensor:
        """`(B - B0) z + B0 z'` for `x = [z, z']`."""
        negated = self.initial[0].weight.detach()
        return functional.linear(x, torch.cat([_weight(self) + negated, -negated], dim=1))


class HeldLinear(nn.Linear):
    """One side of a single adapter that stays as it starts; no optimiser can move it (see `FrozenLinear`)."""

    held = True

    def forward(self, x: Tensor) -> Tensor:
        """`x @ weight.T`, [..., n] to [..., m], passing gradients on to `x` only."""
        return functional.linear(x, _weight(self))


def _weight(linear: PairedDown | PairedUp | HeldLinear) -> Tensor:
    return linear.weight.detach() if linear.held else linear.weight


def hold(model: PeftModel, frozen: Frozen) -> None:
    """Keep one side of the adapter "default" as it is, whatever switches adapters or trains: A ("down") or B ("up")."""
    if frozen == "none":
        return
    for layer in lora_layers(model).values():
        part = layer.lora_A if frozen == "down" else layer.lora_B
        side = part[DEFAULT]
        if isinstance(side, (PairedDown, PairedUp)):
            side.held = True
        else:
            part[DEFAULT] = _as(HeldLinear, side)
        part[DEFAULT].requires_grad_(False)


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
    """Tie the two adapters of `model` together: the reference frozen, its part computed by the trained one.

    With a gate (KaSA) the reference is frozen and computes its own part.
    """
    for layer in lora_layers(model).values():
        if is_gated(layer):
            for side in (layer.lora_A, layer.lora_B):
                side[REFERENCE] = _as(HeldLinear, side[REFERENCE])
            continue
        for part, paired in ((layer.lora_A, PairedDown), (layer.lora_B, PairedUp)):
            frozen, trained = _as(FrozenLinear, part[REFERENCE]), _as(paired, part[DEFAULT])
            trained.initial = (frozen,)
            part[REFERENCE], part[DEFAULT] = frozen, trained
    activate(model)


def activate(model: PeftModel, *, trainable: bool = True) -> None:
    """Make both adapters of a pair active, only "default" trainable.

    PEFT's own `set_adapter("default")` would leave the reference out, so that merging with PEFT would add `s B0 A0` to
    every weight; call this after anything that switches adapters, such as resuming from a checkpoint.

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
            if getattr(part[DEFAULT], "held", False):
                part[DEFAULT].requires_grad_(False)


def _as(kind: type[Kind], linear: nn.Module) -> Kind:
    """The same weight in a linear module of another kind."""
    assert isinstance(linear, nn.Linear)
    other = kind(linear.in_features, linear.out_features, bias=False, device="meta")
    other.weight = linear.weight
    other.train(linear.training)
    return other
