"""How much memory a block of code needed at its worst."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

CLEAR_PEAK = "5"
"""What Linux wants written to `clear_refs` to forget the peak resident size so far."""


class PeakMemory:
    """Peak memory between construction and `bytes()`: of the GPU if `device` is one, else of this process.

    On Linux the process's peak is measured afresh; elsewhere the peak of its whole life is all there is.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            _forget_peak()

    def bytes(self) -> int:
        """The peak so far, in bytes."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return _peak_resident()


def _forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text(CLEAR_PEAK)
    except OSError:
        return  # not Linux, or a locked-down /proc: the peak is then that of the whole process


def _peak_resident() -> int:
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        status = ""
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
