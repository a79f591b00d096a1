"""Where a model is computed: a GPU if there is one, else the processor."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path

import psutil
import torch

from farss.config import Device
from farss.errors import ConfigError

LOCAL_RANK, LOCAL_WORLD_SIZE = "LOCAL_RANK", "LOCAL_WORLD_SIZE"
"""What `torchrun` and `accelerate launch` tell each of the processes they start on one machine, and their number."""


def place(wanted: Device = "auto") -> torch.device:
    """The device that is meant.

    One process uses one GPU: the first that `CUDA_VISIBLE_DEVICES` shows, or under `torchrun` the one of its own rank.

    Args:
        wanted: "auto" takes a GPU if PyTorch can use one, "cuda" insists on it, "cpu" never does.

    Raises:
        ConfigError: if a GPU is asked for and PyTorch sees none.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(
            "PyTorch sees no GPU",
            where="device",
            got="cuda",
            expected="auto | cpu",
            do="check CUDA_VISIBLE_DEVICES and that torch was installed with CUDA",
        )
    return torch.device("cuda", int(os.environ.get(LOCAL_RANK, "0")) % torch.cuda.device_count())


def free_bytes(device: torch.device) -> int:
    """This process's share of the memory that is free on `device` now.

    On the processor that is what may be used without pushing others out. Processes that `torchrun` started together on
    one machine share alike what they have in common.
    """
    together = int(os.environ.get(LOCAL_WORLD_SIZE, "1"))
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // math.ceil(together / torch.cuda.device_count())
    return psutil.virtual_memory().available // together


def device_name(device: torch.device) -> str:
    """What the GPU or the processor calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
