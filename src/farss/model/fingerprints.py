"""What weights a model holds, as a short text: the same text for the same weights, wherever and however loaded.

A plan, an adapter and a report each name the base model they belong to by its fingerprint. The fingerprint is taken of
every parameter *rounded to bfloat16*, so that it does not depend on the dtype the model was loaded in: a checkpoint
stored in bfloat16 has one fingerprint whether it runs in bfloat16 or float32 (and so has a float32 checkpoint). A
change that bfloat16 cannot see does not count as another base. float16 holds a smaller range than bfloat16, so a
bfloat16 checkpoint loaded in float16 may have another fingerprint, as its weights did change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from farss.errors import ModelError
from farss.model.digests import joined_digest

_WRAPPERS = {"base_layer", "original_module", "_orig_mod"}  # name parts that adapters and compilation put in
_ADAPTER_PARTS = {"modules_to_save"}
_ADAPTER_PREFIX = "lora_"

MODEL_FILES = (".safetensors", ".json", ".jinja", ".model", ".txt", ".py")


def fingerprint(model: nn.Module) -> str:
    """The fingerprint of the base weights in `model`: 64 hexadecimal digits.

    sha256 over the names, shapes and bfloat16-rounded values of the parameters, in order of their names. Tied
    parameters count once, buffers and adapter parameters not at all: a PEFT model has its base's fingerprint as long
    as its base weights are untouched.

    Args:
        model: a model with its weights on any device, in any dtype; or a PEFT model around one.

    Raises:
        ModelError: if a weight is not in memory (a meta tensor), or there is none.
    """
    parameters = dict(base_parameters(model))
    if not parameters:
        raise ModelError("the model has no parameters, so it cannot be identified", where=type(model).__name__)
    absent = next((name for name in sorted(parameters) if parameters[name].is_meta), None)
    if absent is not None:
        raise ModelError(
            "a weight is not in memory, so the model cannot be identified",
            where=absent,
            do="load the whole model before asking for its fingerprint",
        )
    return fingerprint_of((name, parameters[name]) for name in sorted(parameters))


def fingerprint_of(parameters: Iterable[tuple[str, Tensor]]) -> str:
    """The fingerprint of a model whose parameters are given one by one, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in parameters:
        values = tensor.detach().to(torch.bfloat16) if tensor.is_floating_point() else tensor.detach()
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(_bytes(values))
    return digest.hexdigest()


def files_hash(folder: Path) -> str:
    """sha256 over a model folder's files of weights, settings, tokenizer and code, as 16 hexadecimal digits.

    Unlike `fingerprint` it needs no model in memory, and tells apart what bfloat16 does not.
    """
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.suffix in MODEL_FILES and path.is_file()):
        digest.update(f"{file.name} {joined_digest([file])}\n".encode())
    return digest.hexdigest()[:16]


def weight_hash(tensor: Tensor) -> str:
    """sha256 of a tensor's dtype, shape and exact bytes, as 64 hexadecimal digits; device and strides do not matter."""
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
    digest.update(_bytes(tensor.detach()))
    return digest.hexdigest()


def base_parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters of the base model under the names they have without adapters; tied ones once."""
    prefixes = (_ADAPTER_PREFIX, getattr(getattr(model, "base_model", None), "prefix", None) or _ADAPTER_PREFIX)
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        if any(part.startswith(prefixes) or part in _ADAPTER_PARTS for part in parts):
            continue
        if hasattr(model, "peft_config"):
            parts = _without(parts, ["base_model", "model"])
        yield ".".join(part for part in parts if part not in _WRAPPERS), parameter


def _without(parts: list[str], first: list[str]) -> list[str]:
    return parts[len(first) :] if parts[: len(first)] == first else parts


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
