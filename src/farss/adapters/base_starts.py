"""Adapters of other tools whose loading would rewrite the base: put on the base as it is, or refused by name."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from farss.adapters.layers import lora_layers
from farss.adapters.older import Stored, joined
from farss.adapters.sides import plain_weight
from farss.errors import AdapterError

KNOWN_STARTS = ("pissa", "olora")
"""Starts that PEFT takes from the base's weights, the same each time, and takes out of them."""

HARMLESS_STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
"""Starts that leave the base as it is."""


def check_start(config: Mapping[str, Any], folder: Path) -> None:
    """Check that an adapter belongs on the base as it is, or can be brought there.

    Args:
        config: the configuration in its folder.
        folder: the adapter, for messages.

    Raises:
        AdapterError: if it belongs beside a base that cannot be made again from its folder.
    """
    start = config.get("init_lora_weights", True)
    if start in HARMLESS_STARTS:
        return
    odd = [key for key in ("use_dora", "kasa_config", "lora_bias", "target_parameters") if config.get(key)]
    if start not in KNOWN_STARTS or odd:
        raise AdapterError(
            "the adapter belongs beside a base from which its start was taken, and the folder does not say which",
            where=folder,
            got=f"init_lora_weights {start!r}" + "".join(f" with {key}" for key in odd),
            expected=f"one of {', '.join(KNOWN_STARTS)}, or a start that leaves the base as it is",
            do="save it as a plain LoRA by PEFT: `save_pretrained` with `path_initial_model_for_weight_conversion`",
        )


def with_start(base: nn.Module, stored: Stored) -> Stored:
    """`stored` as an adapter on the base as it is.

    PEFT's PiSSA and OLoRA adapters belong beside `W - s B0 A0`, which PEFT makes of the base whenever it loads one.
    Here they become adapters that subtract `s B0 A0`, and the base stays.
    """
    if getattr(stored.config, "init_lora_weights", True) in HARMLESS_STARTS:
        return stored
    return joined(stored, _starts(base, stored.config))


def _starts(base: nn.Module, config: Any) -> dict[str, Tensor]:
    """B0 and A0 of every module, as PEFT makes them, by the names of files; `base` is not changed."""
    from peft import get_peft_model

    begun = get_peft_model(copy.deepcopy(base), copy.deepcopy(config))  # type: ignore[arg-type]  # any nn.Module will do
    found = {}
    for name, layer in lora_layers(begun).items():
        for letter, part in (("A", layer.lora_A), ("B", layer.lora_B)):
            found[f"base_model.model.{name}.lora_{letter}.weight"] = plain_weight(part["default"]).detach()
    return found
