"""Where a result was obtained: versions and machine, written beside every figure."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import sys
from typing import Any

import psutil
import torch

from farss.config import Device
from farss.model.devices import device_name

PACKAGES = ("farss", "torch", "transformers", "peft", "accelerate", "safetensors")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def device(wanted: Device = "auto") -> dict[str, Any]:
    """Name, cores and memory (bytes) of what computes: the GPU, if there is one and it is not to be left alone.

    Args:
        wanted: `device` of the recipe.
    """
    if wanted != "cpu" and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return {"name": properties.name, "cores": os.cpu_count(), "memory_bytes": properties.total_memory}
    return {
        "name": device_name(torch.device("cpu")),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
    }


def peak_bytes() -> int:
    """The most memory this process has used so far, in bytes: of the GPU where it uses one, else its resident size."""
    if torch.cuda.is_initialized() and (allocated := torch.cuda.max_memory_allocated()):
        return allocated
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
