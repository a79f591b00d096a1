"""Ranks and scales per module, written as a PEFT configuration that cannot be misread."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from farss.adapters.layers import lora_layers
from farss.errors import AdapterError

if TYPE_CHECKING:
    from peft import LoraConfig

SCALE_TOLERANCE = 1e-9


@dataclass(frozen=True)
class RankAndScale:
    """The rank of one module's adapter and the factor in front of BA."""

    rank: int
    scale: float

    @property
    def alpha(self) -> float:
        """PEFT's alpha, `scale * rank`, an integer where it is one."""
        alpha = self.scale * self.rank
        return int(alpha) if float(alpha).is_integer() else alpha


def lora_config(
    model: nn.Module,
    modules: Mapping[str, RankAndScale],
    *,
    dropout: float = 0.0,
    inference: bool = False,
    **further: Any,
) -> LoraConfig:
    """The configuration that gives every named module its rank and scale, and touches no other module.

    The commonest rank and alpha are the global ones. Exceptions are listed in `rank_pattern` and `alpha_pattern` under
    anchored, escaped, fully qualified names, because PEFT matches bare names by suffix and ignores keys that hit
    nothing.

    Args:
        model: the base model, for its task type, layout and name.
        modules: rank and scale per module name.
        dropout: probability of dropping an input entry of the adapter.
        inference: whether the adapter loads frozen.
        further: settings of PEFT's.

    Raises:
        AdapterError: if a pattern does not hit exactly its module.
    """
    from peft import LoraConfig
    from transformers.pytorch_utils import Conv1D

    rank = Counter(entry.rank for entry in modules.values()).most_common(1)[0][0]
    alpha = Counter(entry.alpha for entry in modules.values()).most_common(1)[0][0]
    config = LoraConfig(
        task_type=task_type(model),
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # PEFT divides it; a float is as good
        rank_pattern={pattern(name): entry.rank for name, entry in modules.items() if entry.rank != rank},
        alpha_pattern={pattern(name): entry.alpha for name, entry in modules.items() if entry.alpha != alpha},
        target_modules=target_modules(model, list(modules)),
        lora_dropout=dropout,
        bias="none",
        fan_in_fan_out=any(isinstance(model.get_submodule(name), Conv1D) for name in modules),
        init_lora_weights=True,
        inference_mode=inference,
        base_model_name_or_path=getattr(model, "name_or_path", None) or None,
        **further,
    )
    _check_patterns(config, modules)
    return config


def pattern(name: str) -> str:
    """A PEFT pattern key that matches the module `name` and nothing else."""
    return f"^{re.escape(name)}"


def target_modules(model: nn.Module, names: list[str]) -> list[str] | str:
    """`names`, or one regular expression where PEFT's suffix matching would hit further modules of `model`."""
    wanted, suffixes = set(names), tuple(f".{name}" for name in names)
    stray = [name for name, _ in model.named_modules() if name not in wanted and name.endswith(suffixes)]
    return "|".join(re.escape(name) for name in names) if stray else names


def name_shortly_(config: LoraConfig, model: nn.Module, names: list[str]) -> None:
    """Have `config` name modules by their last parts, as most servers expect, and by layers where not all have them.

    Where that would hit other modules too, the whole names stay.
    """
    kinds = sorted({name.rpartition(".")[2] for name in names})
    alike = {name for name, _ in model.named_modules() if name.rpartition(".")[2] in kinds}
    layers = {found for name in names if (found := _layer(name)) is not None}
    if alike == set(names):
        config.target_modules = kinds
    elif {name for name in alike if _layer(name) in layers} == set(names):
        config.target_modules, config.layers_to_transform = kinds, sorted(layers)
    else:
        config.target_modules = target_modules(model, names)


def _layer(name: str) -> int | None:
    """The layer of a module as PEFT reads it off the name."""
    found = re.match(r".*\.[^.]*\.(\d+)\.", name)
    return int(found[1]) if found else None


def check_injected(model: nn.Module, modules: Mapping[str, RankAndScale], adapter: str) -> None:
    """Check that PEFT gave every module, and no other, its rank and scale.

    Raises:
        AdapterError: naming the modules that differ.
    """
    got = {
        name: (layer.r[adapter], layer.scaling[adapter])
        for name, layer in lora_layers(model).items()
        if adapter in layer.r
    }
    wrong = sorted(set(got) ^ set(modules))
    for name in sorted(set(got) & set(modules)):
        rank, scale = got[name]
        entry = modules[name]
        if rank != entry.rank or not math.isclose(scale, entry.scale, rel_tol=SCALE_TOLERANCE):
            wrong.append(f"{name}: rank {rank}, scale {scale} instead of {entry.rank}, {entry.scale}")
    if wrong:
        raise AdapterError("PEFT did not follow the plan", where=adapter, got="; ".join(wrong[:4]))


def _check_patterns(config: LoraConfig, modules: Mapping[str, RankAndScale]) -> None:
    for key in {*(config.rank_pattern or {}), *(config.alpha_pattern or {})}:
        hits = [name for name in modules if re.match(rf"(.*\.)?({key})$", name)]
        if len(hits) != 1:
            raise AdapterError("a rank pattern must hit exactly one module", where=key, got=hits[:4])


def task_type(model: nn.Module) -> str | None:
    """PEFT's name for what `model` is for, None where it is no causal language model of transformers."""
    from transformers.models.auto import modeling_auto as known

    writes = {*known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values(), *known.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.values()}
    return "CAUSAL_LM" if type(model).__name__ in writes else None
