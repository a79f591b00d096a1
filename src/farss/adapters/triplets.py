"""AdaLoRA's adapter: PEFT's, with triplets (a column of P, an entry of e, a row of Q) that training cuts.

A cut triplet has `e = 0`; what remains is an ordinary product `s P diag(e) Q` per module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from farss.adapters.configs import RankAndScale, target_modules, task_type
from farss.adapters.factors import Factors
from farss.adapters.layers import DEFAULT, lora_layers
from farss.errors import AdapterError
from farss.method_settings import registry
from farss.model.plan import Plan

if TYPE_CHECKING:
    from peft import AdaLoraConfig, PeftModel

KIND = "ADALORA"
PEFT_GUARD = 1e-5
"""What PEFT adds to the rank it divides by."""


def triplet_config(model: nn.Module, plan: Plan, dropout: float) -> AdaLoraConfig:
    """PEFT's configuration of a plan of triplets; training sets its schedule."""
    from peft import AdaLoraConfig
    from transformers.pytorch_utils import Conv1D

    settings = registry().group_named("adalora").from_mapping(plan.settings["adalora"], "settings.adalora")
    names, first = [row.name for row in plan.targets], plan.targets[0]
    return AdaLoraConfig(
        task_type=task_type(model),
        init_r=first.rank,
        target_r=int(plan.settings["rank"]),
        lora_alpha=RankAndScale(first.rank, first.scale).alpha,  # type: ignore[arg-type]  # a float is as good
        deltaT=settings.interval,
        beta1=settings.beta1,
        beta2=settings.beta2,
        orth_reg_weight=settings.orthogonality,
        total_step=1,
        target_modules=target_modules(model, names),
        lora_dropout=dropout,
        bias="none",
        fan_in_fan_out=any(isinstance(model.get_submodule(name), Conv1D) for name in names),
        base_model_name_or_path=getattr(model, "name_or_path", None) or None,
    )


def check_alike(plan: Plan) -> None:
    """Check that all modules of a plan of triplets start alike, as PEFT has it.

    Raises:
        AdapterError: if they do not, or the settings of the method are missing.
    """
    kinds = {(row.rank, row.scale) for row in plan.targets}
    if len(kinds) != 1 or not {"adalora", "rank"} <= set(plan.settings):
        raise AdapterError(
            "a plan of triplets needs one initial rank, one scale and the settings of `adalora`",
            got=f"{len(kinds)} different ranks and scales, settings {', '.join(plan.settings) or 'none'}",
            do="make the plan again with `farss init`",
        )


def refuse_another_(model: PeftModel) -> None:
    """Make `model` refuse a second adapter by an error that says why, before PEFT's own."""
    from farss.adapters.one_budget import OneBudget

    model.base_model.__class__ = OneBudget


def has_triplets(model: nn.Module) -> bool:
    """Whether the adapter of `model` is AdaLoRA's."""
    configs: Mapping[str, Any] = getattr(model, "peft_config", {})
    return any(str(getattr(config.peft_type, "value", "")) == KIND for config in configs.values())


def remaining(model: PeftModel) -> dict[str, int]:
    """The rank that is left to every adapted module: the entries of e that are not zero."""
    return {name: int((_entries(layer) != 0).sum()) for name, layer in lora_layers(model).items()}


def triplet_products(model: PeftModel) -> dict[str, tuple[Factors, float]]:
    """What every module adds to its weight, as a product of the rank that is left, and its scale.

    Modules with nothing left are not among them.

    Raises:
        AdapterError: if the adapter is merged, is not alone, or nothing is left at all.
    """
    layers = lora_layers(model)
    merged = [name for name, layer in layers.items() if layer.merged_adapters]
    if merged or list(model.active_adapters) != [DEFAULT]:
        raise AdapterError(
            "the adapter is not AdaLoRA's alone and unmerged",
            got=f"active {model.active_adapters}, {len(merged)} merged modules",
            do="unmerge it, and switch other adapters off",
        )
    ranks = remaining(model)
    if not any(ranks.values()):
        raise AdapterError("no triplet has a value other than zero", got="an untrained adapter", do="train it first")
    return {name: _product(layer) for name, layer in layers.items() if ranks[name]}


@contextmanager
def uncut(model: PeftModel) -> Iterator[None]:
    """While the block runs PEFT writes all triplets, those with `e = 0` too, so that training can go on from them."""
    config = model.peft_config[DEFAULT]
    pattern, config.rank_pattern = config.rank_pattern, None  # type: ignore[attr-defined]  # AdaLoRA's
    try:
        yield
    finally:
        config.rank_pattern = pattern  # type: ignore[attr-defined]


def _entries(layer: Any) -> Any:
    return layer.lora_E[DEFAULT].detach()[:, 0]


def _product(layer: Any) -> tuple[Factors, float]:
    kept = _entries(layer) != 0
    down = (layer.lora_E[DEFAULT] * layer.lora_A[DEFAULT]).detach()[kept]
    up = layer.lora_B[DEFAULT].detach()[:, kept]
    scale = layer.scaling[DEFAULT] / (float(layer.ranknum[DEFAULT]) + PEFT_GUARD)
    return Factors(up.contiguous(), down.contiguous()), scale
