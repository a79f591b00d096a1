"""What training added to each weight, read from any LoRA model of PEFT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from farss.adapters.factors import Factors, shift_weight_
from farss.adapters.layers import copy_base, lora_layers, trained_adapter
from farss.adapters.sides import ResidualDown, Side, plain_weight
from farss.adapters.triplets import has_triplets, triplet_products
from farss.errors import AdapterError

if TYPE_CHECKING:
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer


BESIDE = (
    "use_dora",
    "modules_to_save",
    "lora_bias",
    "trainable_token_indices",
    "layer_replication",
    "target_parameters",
    "kasa_config",
)
"""Settings of PEFT with which an adapter holds more than products of two factors."""


@dataclass(frozen=True)
class Update:
    """The trained change of one weight, `scale * up @ down`.

    Attributes:
        factors: up [m, R], down [R, n].
        scale: the factor in front.
    """

    factors: Factors
    scale: float

    @property
    def rank(self) -> int:
        """R, the inner size."""
        return self.factors.up.shape[1]


def trained_updates(model: PeftModel) -> dict[str, Update]:
    """The change of every adapted weight against the *original* base model.

    For an adapter with initial factors this is `s (B A - B0 A0)` as one product of rank 2r, in both forms; for plain
    LoRA `s B A`. The product is written as `[B - B0, B0] [A; A - A0]`: each half is of the size of the update, so it
    survives a cast to bfloat16, whereas in `[B, -B0] [A; A0]` two halves of the size of the weights have to cancel.
    For KaSA it is `[B, -U_d sqrt(S_d / s)] [diag(d) A; sqrt(S_d / s) V_d']`, where nothing cancels. For AdaLoRA
    it is what remains, `P [diag(e) Q]`, without modules that have nothing left.

    Raises:
        AdapterError: if the adapter has parts that are no low-rank product (DoRA, biases, retrained modules, ...).
    """
    if has_triplets(model):
        return {name: Update(part, scale) for name, (part, scale) in triplet_products(model).items()}
    check_plain_lora(model)
    updates = {}
    for name, layer in lora_layers(model).items():
        names = [adapter for adapter in contributing(model) if adapter in layer.r]
        if not names:
            continue
        parts = [adapter_factors(layer, adapter) for adapter in names]
        updates[name] = _joined(parts, [layer.scaling[adapter] for adapter in names])
    return updates


def contributing(model: PeftModel) -> list[str]:
    """The adapters whose sum is the trained update: those that are active."""
    return list(model.active_adapters)


def adapter_factors(layer: LoraLayer, adapter: str) -> Factors:
    """B [m, R] and A [R, n] of one adapter of one layer as an ordinary LoRA on the original base, detached."""
    up, down = plain_weight(layer.lora_B[adapter]), plain_weight(layer.lora_A[adapter])
    return Factors(up.detach(), down.detach())


def trained_part(model: PeftModel) -> dict[str, Update]:
    """`s B A` of the trained adapter alone, without what is subtracted from it."""
    adapter = trained_adapter(model)
    return {
        name: Update(Factors(_learned(layer.lora_B[adapter]), _learned(layer.lora_A[adapter])), layer.scaling[adapter])
        for name, layer in lora_layers(model).items()
    }


def initial_part(model: PeftModel) -> dict[str, Factors] | None:
    """B0 and A0 of every module, or None where the adapter did not start from a part of the weights."""
    adapter, parts = trained_adapter(model), {}
    for name, layer in lora_layers(model).items():
        starts = [getattr(part[adapter], "start", None) for part in (layer.lora_B, layer.lora_A)]
        if any(start is None for start in starts):
            return None
        parts[name] = Factors(*(start.detach() for start in starts))  # type: ignore[union-attr]  # parameters
    return parts


def is_residual(model: nn.Module) -> bool:
    """Whether the adapter in use stands beside a base from which its start was taken."""
    adapter = trained_adapter(model)
    sides = (layer.lora_A[adapter] for layer in lora_layers(model).values() if adapter in layer.lora_A)
    return any(isinstance(side, ResidualDown) for side in sides)


def subtract_(model: PeftModel) -> None:
    """Take the adapter's start out of the base weights of `model`, in float32 with one cast: the residual form."""
    adapter, starts = trained_adapter(model), initial_part(model) or {}
    for name, layer in lora_layers(model).items():
        shift_weight_(layer.get_base_layer(), starts[name], -layer.scaling[adapter])


def original_base(model: PeftModel) -> nn.Module:
    """A copy of the base model as it was before the adapter; nothing is shared with `model`.

    In the residual form `s B0 A0` is added back, which restores the weights up to the rounding of their dtype.
    """
    base = copy_base(model)
    if is_residual(model):
        adapter, layers = trained_adapter(model), lora_layers(model)
        for name, start in (initial_part(model) or {}).items():
            shift_weight_(base.get_submodule(name), start, layers[name].scaling[adapter])
    return base


def _learned(side: nn.Module) -> Tensor:
    return (side.learned() if isinstance(side, Side) else plain_weight(side)).detach()


def check_plain_lora(model: PeftModel, *, magnitudes: bool = False) -> None:
    """Check that every contributing adapter is an ordinary product BA.

    Args:
        model: a PEFT model.
        magnitudes: allow a single adapter to be DoRA's, in modules that are linear.

    Raises:
        AdapterError: naming what is not.
    """
    odd: list[str] = []
    if magnitudes and len(contributing(model)) > 1:
        odd.append("DoRA beside another adapter")
    for adapter in contributing(model):
        config = model.peft_config[adapter]
        odd += [
            f"{adapter}.{key}"
            for key in BESIDE
            if getattr(config, key, None) and not (magnitudes and key == "use_dora")
        ]
        odd += [f"{adapter}: {config.peft_type}"] if str(getattr(config.peft_type, "value", "")) != "LORA" else []
    for name, layer in lora_layers(model).items():
        merged = bool(layer.merged_adapters)
        variant = bool(layer.lora_variant) and not magnitudes
        if merged or variant or layer.lora_embedding_A or not isinstance(layer.get_base_layer(), nn.Module):
            odd.append(f"{name}: {'merged' if merged else 'not a plain low-rank product'}")
    if odd:
        raise AdapterError(
            "the adapter is not a sum of plain low-rank products",
            got="; ".join(odd[:4]),
            expected="LoRA without DoRA, biases or retrained modules, not merged",
            do="unmerge it, or export it with PEFT itself; DoRA can be merged, or recompressed to a rank",
        )


def update_mismatch(expected: Mapping[str, Update], got: Mapping[str, Update]) -> float:
    """The largest difference of two updates over all modules, relative to the size of their factors.

    Unlike outputs, it does not depend on how coarsely the base model rounds.

    Returns:
        max over modules of `||s1 B1 A1 - s2 B2 A2||_F / (s1 ||B1||_F ||A1||_F)`; infinite if the modules differ.
    """
    if set(expected) != set(got):
        return float("inf")
    worst = 0.0
    for name, first in expected.items():
        second, one = got[name], first.factors
        size = first.scale * float(one.up.norm() * one.down.norm())
        like = one.up
        other = Factors(second.factors.up.to(like), second.factors.down.to(like))
        gap = float((first.scale * (one.up @ one.down) - second.scale * (other.up @ other.down)).norm())
        worst = max(worst, gap / size if size > 0 else float(gap > 0))
    return worst


def _joined(parts: list[Factors], scales: list[float]) -> Update:
    """One product that is the scaled sum of `parts`: [A; A0; ...] and [B, B0, ...] times their relative scales."""
    scale = scales[0]
    ups = [part.up if each == scale else part.up * (each / scale) for part, each in zip(parts, scales, strict=True)]
    return Update(Factors(torch.cat(ups, 1), torch.cat([part.down for part in parts], 0)), scale)
