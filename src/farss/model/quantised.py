"""Checkpoints whose stored numbers are not the weights: codes and scales of one quantisation or another.

Neither engine reads them. Singular directions are those of the weights that were quantised, and an adapter is trained
on weights that can be read and written as numbers; a dequantised folder or the unquantised base is such a model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import safe_open

from farss.errors import ModelError

UNPACKED_BY = {"fp8": "FineGrainedFP8Config", "mxfp4": "Mxfp4Config"}
"""Quantisations that transformers turns back into numbers, and the class that asks for it."""

ENTRIES = ("quantization_config", "compression_config")

PART = re.compile(
    r"(.+)\.(?:weight[._](?:scale\w*|absmax|nested_\w+|quant_.+|zero_point|packed|shape|format)|q(?:weight|zeros)"
    r"|scales|SCB|g_idx|input_scale|\w+_proj_(?:blocks|scales|scale_inv|bias_scale))"
)
"""Names of tensors that a packed weight is made of, or that it is multiplied with."""

INTEGERS = re.compile(r"[IU]\d+")


def check_unquantised(folder: Path, config: dict[str, Any], files: Iterable[Path]) -> None:
    """Check that the numbers in the weight files are the weights.

    Args:
        folder: for messages.
        config: the content of `config.json`.
        files: safetensors files.

    Raises:
        ModelError: if the configuration names a quantisation, or the files hold codes or scales; it says which.
    """
    if entry := _entry(config):
        raise _refused(folder, _method(entry))
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118  # the handle itself cannot be iterated
                if PART.fullmatch(key):
                    raise _refused(folder, None, f"{key}, and no quantization_config")
                kind, ndim = opened.get_slice(key).get_dtype(), len(opened.get_slice(key).get_shape())
                integer = INTEGERS.fullmatch(kind) and key.endswith(".weight") and ndim > 1
                if integer or kind.startswith(("F8_", "F6_", "F4")):
                    raise _refused(folder, None, f"{key} is stored as {kind}, and no quantization_config")


def _entry(config: dict[str, Any]) -> dict[str, Any] | None:
    """The quantisation that a configuration names, for the whole model or one of its parts."""
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for name in ENTRIES:
            if isinstance(part.get(name), dict) and part[name]:
                return part[name]
    return None


def _method(entry: dict[str, Any]) -> str:
    if entry.get("quant_method"):
        return str(entry["quant_method"])
    return "bitsandbytes" if {"load_in_4bit", "load_in_8bit"} & set(entry) else "unnamed"


def _refused(folder: Path, method: str | None, found: str | None = None) -> ModelError:
    way = "name the unquantised model that it was made from"
    if method in UNPACKED_BY:
        asked = f"quantization_config={UNPACKED_BY[method]}(dequantize=True)"
        way += f', or dequantise it once: AutoModelForCausalLM.from_pretrained(FOLDER, {asked}, dtype="bfloat16")'
        way += ".save_pretrained(NEW_FOLDER, save_original_format=False)"
    return ModelError(
        "the model's weights are quantised, so they cannot be read as numbers",
        where=folder,
        expected="weights in float32, bfloat16 or float16",
        got=found or f"quantization_config: {method}",
        do=way,
    )
