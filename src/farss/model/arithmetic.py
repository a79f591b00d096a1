"""In what dtype weights are kept and products computed: decided here, once, for every verb.

A checkpoint's dtype says how it was stored, not how the device computes. A processor without bfloat16 instructions
emulates them, about ten times slower than float32; one with matrix units for them is several times faster. float32
holds every bfloat16 and float16 number exactly, so turning a half-precision checkpoint into float32 changes no weight
and makes every product more accurate: between the two the faster is taken, where it fits. Never is a dtype taken that
rounds what the checkpoint holds; only training computes a float32 model in bfloat16, under autocast, as is usual.

The device's instructions decide, and a timing of a few products confirms that PyTorch makes use of them: a library
may be held to an older instruction set. What was timed is kept in the cache, so that a device's answer stays the same.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from farss.amounts import size
from farss.config import Dtype, Precision
from farss.errors import ConfigError, StorageError
from farss.maths.choice import wait
from farss.model.cache import cache_root
from farss.model.devices import device_name, free_bytes
from farss.reading import Document, unless_damaged
from farss.storage import write_json

HALF = (torch.bfloat16, torch.float16)

PRODUCTS = ((512, 768, 2048), (512, 2048, 768), (32, 768, 2048))
"""Tokens, in-features and out-features of the products that are timed: of a pass over a small model, and of a step of
generation, which has few rows."""

ROUNDS = 5
"""Each product is timed this many times, the two dtypes taking turns; the median counts. About a second in all."""

LEFT_FREE = 0.25
"""Share of the free memory that float32 weights must leave to activations, logits and moments."""

KEPT = "arithmetic.json"
"""The file in the cache that holds what was timed, by device and library."""

TIMINGS = Document("cache of timings", StorageError)
SPEEDS = {
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "additionalProperties": {"type": "number", "exclusiveMinimum": 0},
    },
}

ISA_LIMIT = "ONEDNN_MAX_CPU_ISA"
"""oneDNN's own variable, the newest instruction set that it may use: with another value, another thing is timed."""


@dataclass(frozen=True)
class Half:
    """What a device makes of a half-precision dtype.

    Attributes:
        fast: whether it computes in that dtype at least as fast as in float32.
        reason: why that is believed, to be read after "because".
        speeds: products per second by dtype, in GFLOP/s; empty where nothing had to be timed.
    """

    fast: bool
    reason: str
    speeds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Arithmetic:
    """How a model is computed.

    Attributes:
        checkpoint: the dtype its weights are stored in, by name.
        weights: the dtype they are kept in, and their products computed in.
        training: the dtype of products while training: bfloat16 is autocast, anything else is `weights`.
        device: what computes.
        reason: why.
        speeds: products per second by dtype, in GFLOP/s, where they were timed.
    """

    checkpoint: str
    weights: str
    training: str
    device: str
    reason: str
    speeds: dict[str, float] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """The decision in one line."""
        trains = "" if self.training == self.weights else f", training in {self.training}"
        timed = ", ".join(f"{name} {speed:,.0f}" for name, speed in self.speeds.items())
        figures = f" ({timed} GFLOP/s)" if timed else ""
        return f"arithmetic: {self.weights}{trains} on {self.device}, because {self.reason}{figures}"

    def to_mapping(self) -> dict[str, Any]:
        """The decision as a dictionary."""
        return asdict(self)


def decide(
    checkpoint: torch.dtype,
    device: torch.device,
    *,
    wanted: Dtype = "auto",
    precision: Precision = "auto",
    numbers: int = 0,
) -> Arithmetic:
    """How a model is computed on a device.

    Args:
        checkpoint: the dtype its weights are stored in.
        device: where it is computed.
        wanted: `model.dtype`: "auto" decides, "checkpoint" is the stored dtype, anything else is obeyed.
        precision: `train.precision`: in what training computes; "float32" keeps the weights in float32 too.
        numbers: weights that are in memory together, to be held against what is free; 0 where a model is read piece by
            piece, or memory is looked at elsewhere.

    Raises:
        ConfigError: if training in float16 is asked for and the device is no GPU.
    """
    name, place = name_of(checkpoint), device_name(device)
    weights, reason, speeds = _weights(checkpoint, device, numbers) if wanted == "auto" else (checkpoint, "", {})
    if wanted != "auto":
        weights, reason = checkpoint if wanted == "checkpoint" else getattr(torch, wanted), "it was asked for"
    if precision == "float32" and weights in HALF:
        weights, reason = torch.float32, "train.precision asks for it"
    training = torch.bfloat16 if trains_in_bfloat16(precision, weights, device) else weights
    if precision == "float16":
        require_float16(device)
        training = torch.float16
    return Arithmetic(name, name_of(weights), name_of(training), place, reason, speeds)


class EmulationWarning(UserWarning):
    """A model is in a half-precision dtype that its device emulates, many times slower than float32."""


def warn_if_emulated(model: nn.Module) -> None:
    """Warn if a model that somebody else loaded is in a dtype that its device emulates.

    Args:
        model: any; only read.
    """
    weight = next(model.parameters(), None)
    if weight is None or weight.dtype not in HALF or weight.device.type not in ("cpu", "cuda"):
        return
    found = half(weight.dtype, weight.device)
    if not found.fast:
        name = name_of(weight.dtype)
        advice = "load it with dtype=torch.float32, which changes no weight"
        warnings.warn(f"the model is in {name}, but {found.reason}: {advice}", EmulationWarning, stacklevel=3)


def trains_in_bfloat16(precision: Precision, weights: torch.dtype, device: torch.device) -> bool:
    """Whether products are computed in bfloat16 while a model with such weights is trained.

    Args:
        precision: "auto" says yes where the device is fast in bfloat16 and the model is not float64.
        weights: the dtype the model is kept in.
        device: where it is trained.
    """
    if precision != "auto":
        return precision == "bfloat16"
    return weights is not torch.float64 and half(torch.bfloat16, device).fast


def require_float16(device: torch.device) -> None:
    """Refuse training in float16, which needs the scaling of its loss, anywhere but on a GPU.

    Raises:
        ConfigError: if `device` is none.
    """
    if device.type != "cuda":
        raise ConfigError(
            "training in float16 needs a GPU",
            where="train.precision",
            got=device.type,
            do="set train.precision: auto, which computes in what this device is fastest in",
        )


def _weights(checkpoint: torch.dtype, device: torch.device, numbers: int) -> tuple[torch.dtype, str, dict[str, float]]:
    if checkpoint not in HALF:
        return checkpoint, "the checkpoint is stored in it", {}
    found = half(checkpoint, device)
    if found.fast:
        return checkpoint, found.reason, found.speeds
    wide = numbers * torch.float32.itemsize
    if numbers and wide > (1 - LEFT_FREE) * (free := free_bytes(device)):
        need = f"float32 weights need {size(wide)} and {size(free)} are free, so this is the slow way"
        return checkpoint, f"{need}: {found.reason}", found.speeds
    return torch.float32, found.reason, found.speeds


def half(dtype: torch.dtype, device: torch.device) -> Half:
    """Whether a device is fast in a half-precision dtype: by its instructions, confirmed by a timing.

    Args:
        dtype: bfloat16 or float16.
        device: a processor or a GPU.
    """
    name = name_of(dtype)
    has, what = has_instructions(dtype, device)
    if not has:
        return Half(False, what)
    if device.type != "cpu":
        return Half(True, what)
    speeds = _kept_speeds(dtype, device)
    if speeds[name] >= speeds["float32"]:
        return Half(True, what, speeds)
    held = f" with {ISA_LIMIT}={limit}" if (limit := os.environ.get(ISA_LIMIT)) else ""
    return Half(False, f"{what}, but products in {name} are slower here{held}", speeds)


def has_instructions(dtype: torch.dtype, device: torch.device) -> tuple[bool, str]:
    """Whether the device computes in `dtype` itself, and that as a sentence. Nothing is timed.

    PyTorch "supports" half precision on every processor, by emulation; this asks for instructions.
    """
    name = name_of(dtype)
    if device.type == "cuda":
        has = dtype is torch.float16 or torch.cuda.is_bf16_supported(including_emulation=False)
        return has, f"the GPU has {name} units" if has else f"the GPU has no {name} units"
    asked = X86 if platform.machine().lower() in ("x86_64", "amd64") else ELSEWHERE
    for isa, supported in asked[dtype].items():
        if supported():
            return True, f"the processor has {name} instructions ({isa})"
    return False, f"the processor has no {name} instructions and would emulate them"


def _says(module: Any, name: str) -> Callable[[], bool]:
    """PyTorch's word on a capability; False where this version of it knows no such question."""
    return lambda: bool(getattr(module, name, lambda: False)())


X86: dict[torch.dtype, dict[str, Callable[[], bool]]] = {
    torch.bfloat16: {
        "AMX": _says(torch.cpu, "_is_amx_tile_supported"),
        "AVX512_BF16": _says(torch.cpu, "_is_avx512_bf16_supported"),
    },
    torch.float16: {"AMX_FP16": _says(torch.cpu, "_is_amx_fp16_supported")},
}
"""Instruction sets that compute in a dtype, best first. oneDNN's own question says yes to what it emulates, too."""

ELSEWHERE: dict[torch.dtype, dict[str, Callable[[], bool]]] = {
    torch.bfloat16: {"oneDNN": _says(torch.ops.mkldnn, "_is_mkldnn_bf16_supported")},
    torch.float16: {"oneDNN": _says(torch.ops.mkldnn, "_is_mkldnn_fp16_supported")},
}


def speed_of(dtype: torch.dtype, device: torch.device) -> float:
    """Products per second in a dtype, in GFLOP/s: timed once, and kept.

    Args:
        dtype: any float.
        device: where they are computed.
    """
    return _kept_speeds(dtype, device)[name_of(dtype)]


def _kept_speeds(dtype: torch.dtype, device: torch.device) -> dict[str, float]:
    """GFLOP/s of `dtype` and float32 side by side, timed once per device, library and number of threads."""
    limit = os.environ.get(ISA_LIMIT, "")
    key = " | ".join((device_name(device), f"torch {torch.__version__}", f"{torch.get_num_threads()} threads", limit))
    return _timed_once(f"{key} | {name_of(dtype)}", dtype, device, cache_root() / KEPT)


@functools.cache
def _timed_once(key: str, dtype: torch.dtype, device: torch.device, file: Path) -> dict[str, float]:
    known = _read(file)
    if not {name_of(dtype), name_of(torch.float32)} <= known.get(key, {}).keys():
        known[key] = _time(dtype, device)
        with contextlib.suppress(StorageError):  # a cache that cannot be written costs a second, not the work
            write_json(file, known)
    return known[key]


def _read(file: Path) -> dict[str, dict[str, float]]:
    if not file.is_file():
        return {}
    return unless_damaged(lambda: TIMINGS.read_as(file, SPEEDS), "products are timed anew") or {}


@torch.no_grad()
def _time(dtype: torch.dtype, device: torch.device) -> dict[str, float]:
    kinds = tuple({torch.float32: None, dtype: None})
    generator = torch.Generator().manual_seed(0)
    seconds = dict.fromkeys(kinds, 0.0)
    for tokens, inner, outer in PRODUCTS:
        inputs, weight = (torch.randn(rows, inner, generator=generator) for rows in (tokens, outer))
        made = {kind: (inputs.to(device, kind), weight.to(device, kind)) for kind in kinds}
        runs: dict[torch.dtype, list[float]] = {kind: [] for kind in kinds}
        for _ in range(ROUNDS + 1):  # the first runs start libraries and are not counted
            for kind, pair in made.items():
                runs[kind].append(_seconds(lambda pair=pair: functional.linear(*pair), device))
        for kind in kinds:
            # Weighed by rows: a step of generation counts as much as the pass that it is one of many after.
            seconds[kind] += statistics.median(runs[kind][1:]) / (tokens * inner * outer)
    return {name_of(kind): 2e-9 * len(PRODUCTS) / taken for kind, taken in seconds.items()}


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    wait(device)
    started = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - started


def name_of(dtype: torch.dtype) -> str:
    """The name of a dtype in recipes: `float32` for `torch.float32`."""
    return str(dtype).removeprefix("torch.")
