"""Folders of earlier versions, in which an adapter and what it started from were two, read as the one of today."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from farss.storage import read_tensors

REFERENCE = "reference"
REMOVED = "removed.safetensors"


@dataclass
class Stored:
    """An adapter as its folder has it.

    Attributes:
        config: PEFT's configuration.
        tensors: by the names PEFT gives them in files.
        base_fingerprint: of the base model, where the file names one.
    """

    config: Any
    tensors: dict[str, Tensor]
    base_fingerprint: str | None = None


def upgraded(folder: Path, stored: Stored, read: Callable[[Path], dict[str, Tensor]]) -> Stored:
    """`stored` with its start, if that lies in a folder or file beside it, as one adapter of twice the rank.

    Args:
        folder: of the adapter.
        stored: what the folder itself holds.
        read: the tensors of an adapter folder.
    """
    if (folder / REFERENCE).is_dir():
        # Its B had the sign turned, so that the two adapters were added.
        starts = {name: -part if _is_up(name) else part for name, part in read(folder / REFERENCE).items()}
    elif (folder / REMOVED).exists():
        removed, _ = read_tensors(folder / REMOVED)
        starts = {_name(key): part for key, part in removed.items()}
    else:
        return stored
    return joined(stored, starts)


def joined(stored: Stored, starts: Mapping[str, Tensor]) -> Stored:
    """`stored` and what it started from as one adapter of twice the rank and the same scales.

    Args:
        stored: an adapter of the rank that is trained.
        starts: B0 and A0 of every module, by the names of files.
    """
    config = stored.config
    stored.tensors = _joined(stored.tensors, starts)
    # With rsLoRA alpha is divided by the root of the rank.
    wider = 2**0.5 if config.use_rslora else 2
    config.r, config.lora_alpha = 2 * config.r, wider * config.lora_alpha
    config.rank_pattern = {name: 2 * rank for name, rank in (config.rank_pattern or {}).items()}
    config.alpha_pattern = {name: wider * value for name, value in (config.alpha_pattern or {}).items()}
    config.init_lora_weights = True  # nothing is to be taken out of the base
    return stored


def _joined(trained: Mapping[str, Tensor], starts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of one adapter, as its sides (`farss.adapters.sides`) are written."""
    found = dict(trained)
    for name, start in starts.items():
        side, factor = name.removesuffix(".weight"), trained[name]
        if f"{side.replace('lora_B', 'lora_A')}.gate" in trained:  # KaSA drops a part instead of subtracting a start
            found[name] = torch.cat([factor, -start], 1) if _is_up(name) else torch.cat([factor, start])
            found |= {} if _is_up(name) else {f"{side}.start": start}
        elif _is_up(name):
            found |= {name: torch.cat([factor - start, start], 1), f"{side}.factor": factor}
        else:
            found |= {name: torch.cat([factor, factor - start]), f"{side}.start": start}
    return found


def _is_up(name: str) -> bool:
    return name.endswith("lora_B.weight")


def _name(key: str) -> str:
    module, _, side = key.rpartition(".")
    return f"base_model.model.{module}.lora_{'B' if side == 'up' else 'A'}.weight"
