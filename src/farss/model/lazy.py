"""A checkpoint read piece by piece: a model without weights, and its weights when and where they are needed."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from farss.errors import ModelError
from farss.model.checkpoint import check_folder, language_model, load_config, weight_files

RESIDENT = "use the resident engine, which loads the whole model"

HEADER_LENGTH_BYTES = 8
"""A safetensors file begins with the length of its JSON header, a little-endian number of this many bytes."""


class LazyWeights:
    """The weights of one checkpoint folder, by the names they have in the model.

    Args:
        folder: a model folder with safetensors weights.
        model: the model without weights; it tells names, shapes and ties.
        dtype: weights are given in this dtype.
        device: weights are put here.

    Raises:
        ModelError: if a weight of the model is not in the checkpoint under its own name.
    """

    def __init__(self, folder: Path, model: nn.Module, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        self.folder, self.dtype, self.device = folder, dtype, torch.device(device)
        stored = _stored_in(weight_files(folder))
        self.parameters = dict(model.named_parameters())  # tied ones once
        keys = {name: _stored_name(name, model, stored) for name in self.parameters}
        missing = [name for name, key in keys.items() if key is None]
        if missing:
            raise ModelError(
                "the checkpoint names its weights differently from the model, so it cannot be read piece by piece",
                where=folder,
                expected=", ".join(missing[:3]),
                got=f"{len(missing)} names without a weight",
                do=RESIDENT,
            )
        self.keys = {name: key for name, key in keys.items() if key is not None}
        self.files = {name: stored[key] for name, key in self.keys.items()}
        self.buffers = {
            name: stored[key] for name, _ in model.named_buffers() if (key := _stored_name(name, model, stored))
        }

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """(name, weight) of each name, in the order given; a file is closed before the next is opened.

        Raises:
            ModelError: if a weight has another shape than in the model, or holds NaN or Inf.
        """
        for file, together in itertools.groupby(names, key=lambda name: self.files[name]):
            with safe_open(file, framework="pt") as opened:
                for name in together:
                    yield name, self._checked(name, opened.get_tensor(self.keys[name]))

    def announce(self, names: Iterable[str]) -> None:
        """Have the system read the named weights from the disk while something else is computed.

        They come into its file cache, not into this process: `read` finds them there, and no memory is held meanwhile.
        Where the system takes no such advice nothing happens, and `read` waits for the disk.
        """
        if not hasattr(os, "posix_fadvise"):
            return
        for file, together in itertools.groupby(names, key=lambda name: self.files[name]):
            places = byte_ranges(file)
            with open(file, "rb") as opened:
                for name in together:
                    start, end = places[self.keys[name]]
                    os.posix_fadvise(opened.fileno(), start, end - start, os.POSIX_FADV_WILLNEED)

    def _checked(self, name: str, weight: Tensor) -> Tensor:
        if weight.shape != self.parameters[name].shape:
            expected = tuple(self.parameters[name].shape)
            raise ModelError("a weight has the wrong shape", where=name, expected=expected, got=tuple(weight.shape))
        weight = weight.to(self.device, self.dtype)
        low, high = torch.aminmax(weight)
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise ModelError("the model has weights that are NaN or Inf", where=name, do="copy the file again")
        return weight

    @contextmanager
    def loaded(self, model: nn.Module, names: Iterable[str]) -> Iterator[None]:
        """The named weights in their places in `model`, and the empty ones back afterwards."""
        names = list(names)
        try:
            for name, weight in self.read(names):
                _place(model, name, nn.Parameter(weight, requires_grad=False))
            yield
        finally:
            for name in names:
                _place(model, name, self.parameters[name])

    def hollow_(self, model: nn.Module) -> None:
        """Put zeros that take no memory in the places of all weights; they tell dtype and device as real ones would."""
        zero = torch.zeros((), dtype=self.dtype, device=self.device)
        for name, empty in self.parameters.items():
            _place(model, name, nn.Parameter(zero.expand(empty.shape), requires_grad=False))


@cache
def byte_ranges(file: Path) -> dict[str, tuple[int, int]]:
    """Tensor name -> (first byte, byte after the last) in a safetensors file."""
    with open(file, "rb") as opened:
        length = int.from_bytes(opened.read(HEADER_LENGTH_BYTES), "little")
        header = json.loads(opened.read(length))
    begin = HEADER_LENGTH_BYTES + length
    places = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
    return {name: (begin + start, begin + end) for name, (start, end) in places.items()}


def skeleton(
    folder: Path, dtype: str = "checkpoint", *, classifier: bool = False, trust_remote_code: bool = False
) -> tuple[Any, torch.dtype]:
    """The model of a folder with its parameters on the meta device, and the dtype they will have.

    Buffers (rotary frequencies, masks) are real, as the model's own code computes them.

    Args:
        folder: a model folder; `check_folder` is applied first.
        dtype: "checkpoint" for the dtype of the checkpoint, or the name of a torch dtype.
        classifier: the encoder with the classification head that the folder holds, instead of a causal language model.
        trust_remote_code: whether code in the folder may run.

    Raises:
        ModelError: as `check_folder`, and as `language_class` where no classifier is asked for.
    """
    from accelerate import init_empty_weights
    from transformers import AutoModelForSequenceClassification

    if classifier:
        check_folder(folder, trust_remote_code=trust_remote_code)
        architecture, config = AutoModelForSequenceClassification, load_config(folder, trust_remote_code)
    else:
        architecture, config = language_model(folder, trust_remote_code=trust_remote_code)
    kind = _checkpoint_dtype(folder, config) if dtype == "checkpoint" else getattr(torch, dtype)
    with init_empty_weights(include_buffers=False):
        model = architecture.from_config(config, dtype=kind, trust_remote_code=trust_remote_code)
    model.tie_weights()
    return model.eval(), kind


def stored_dtype(folder: Path, *, trust_remote_code: bool = False) -> torch.dtype:
    """The dtype that a model folder is stored in, as transformers would load it with `dtype="auto"`.

    Raises:
        ModelError: if its configuration cannot be read, or it holds no floating-point weight.
    """
    return _checkpoint_dtype(folder, load_config(folder, trust_remote_code))


def _checkpoint_dtype(folder: Path, config: Any) -> torch.dtype:
    """As transformers decides: the configuration's word, else the first floating-point weight's."""
    named = getattr(config, "dtype", None)
    if isinstance(named, torch.dtype):
        return named
    if isinstance(named, str):
        return getattr(torch, named.removeprefix("torch."))
    with safe_open(weight_files(folder)[0], framework="pt") as opened:
        for key in opened.keys():  # noqa: SIM118  # the handle itself cannot be iterated
            weight = opened.get_tensor(key)
            if weight.is_floating_point():
                return weight.dtype
    raise ModelError("the checkpoint holds no floating-point weight", where=folder)


def _stored_in(files: Iterable[Path]) -> dict[str, Path]:
    found = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            found |= dict.fromkeys(opened.keys(), file)
    return found


def _stored_name(name: str, model: nn.Module, stored: dict[str, Path]) -> str | None:
    """The name of a weight in the checkpoint: its own, or its own without or with the base model's prefix."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    return next((key for key in (name, name.removeprefix(prefix), prefix + name) if key in stored), None)


def _place(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    module, _, last = name.rpartition(".")
    model.get_submodule(module)._parameters[last] = parameter
