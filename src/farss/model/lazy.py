"""A checkpoint read piece by piece: a model without weights, and its weights when and where they are needed."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import safe_open
from torch import Tensor, nn

from farss.errors import ModelError
from farss.foreign import foreign
from farss.model.checkpoint import check_folder, language_model, load_config, weight_files
from farss.model.folders import CONFIGURATION
from farss.model.stored import Source, sources_of

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
        ModelError: if a weight of the model is neither in the checkpoint nor made of what is.
    """

    def __init__(self, folder: Path, model: nn.Module, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        self.folder, self.dtype, self.device = folder, dtype, torch.device(device)
        self.model = model
        self.files = _stored_in(weight_files(folder))  # by the names in the checkpoint
        sources = sources_of(model, self.files)
        self.parameters = dict(model.named_parameters())  # tied ones once
        aliases = {id(parameter): name for name, parameter in model.named_parameters(remove_duplicate=False)}
        for name, parameter in self.parameters.items():
            other = aliases[id(parameter)]
            if name not in sources and other in sources:  # of two tied names the checkpoint may hold either
                sources[name] = sources[other]
        missing = [name for name in self.parameters if name not in sources]
        if missing:
            raise ModelError(
                "the checkpoint names its weights differently from the model, so it cannot be read piece by piece",
                where=folder,
                expected=", ".join(missing[:3]),
                got=f"{len(missing)} names without a weight",
                do=RESIDENT,
            )
        self.sources = {name: sources[name] for name in self.parameters}
        self._load_buffers(sources)

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """(name, weight) of each name, in the order given; one file is open at a time.

        Raises:
            ModelError: if a weight has another shape than in the model, or holds NaN or Inf.
        """
        with _OneFile(self.files) as stored:
            for name in names:
                yield name, self._checked(name, self.sources[name].make(name, self.model, stored.tensor))

    def announce(self, names: Iterable[str]) -> None:
        """Have the system read the named weights from the disk while something else is computed.

        They come into its file cache, not into this process: `read` finds them there, and no memory is held meanwhile.
        Where the system takes no such advice nothing happens, and `read` waits for the disk.
        """
        if not hasattr(os, "posix_fadvise"):
            return
        keys = [key for name in names for key in self.sources[name].keys]
        for file, together in itertools.groupby(keys, key=lambda key: self.files[key]):
            places = byte_ranges(file)
            with open(file, "rb") as opened:
                for key in together:
                    start, end = places[key]
                    os.posix_fadvise(opened.fileno(), start, end - start, os.POSIX_FADV_WILLNEED)

    def _load_buffers(self, sources: dict[str, Source]) -> None:
        """Put the buffers that the checkpoint holds (what routers were corrected by, say) into the model, for good."""
        with _OneFile(self.files) as stored:
            for name, buffer in dict(self.model.named_buffers()).items():
                if name in sources:
                    held = sources[name].make(name, self.model, stored.tensor)
                    module, _, last = name.rpartition(".")
                    self.model.get_submodule(module)._buffers[last] = held.to(self.device, buffer.dtype)

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


class _OneFile:
    """Tensors by name, of several files of which one is open at a time."""

    def __init__(self, files: dict[str, Path]) -> None:
        self.files, self.stack = files, ExitStack()
        self.path: Path | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def tensor(self, key: str) -> Tensor:
        """The stored tensor of this name."""
        if self.files[key] != self.path:
            self.stack.close()
            self.path = self.files[key]
            self.opened = self.stack.enter_context(safe_open(self.path, framework="pt"))
        return self.opened.get_tensor(key)


@cache
def byte_ranges(file: Path) -> dict[str, tuple[int, int]]:
    """Tensor name -> (first byte, byte after the last) in a safetensors file."""
    with open(file, "rb") as opened:
        length = int.from_bytes(opened.read(HEADER_LENGTH_BYTES), "little")
        header = CONFIGURATION.parse_json(opened.read(length).decode(), file)
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
    with foreign(ModelError, "the model cannot be made", where=folder), init_empty_weights(include_buffers=False):
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
        found = getattr(torch, named.removeprefix("torch."), None)
        if not isinstance(found, torch.dtype):
            raise ModelError("the configuration names no dtype", where=folder, got=repr(named))
        return found
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


def _place(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    module, _, last = name.rpartition(".")
    model.get_submodule(module)._parameters[last] = parameter
