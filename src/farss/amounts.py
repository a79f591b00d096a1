"""Amounts as people read them: bytes and durations, the same in every message, table and page."""

from __future__ import annotations

UNITS = ("B", "kB", "MB", "GB", "TB")
"""Of bytes, each a thousand of the one before, as disks and checkpoints are measured."""


def size(value: float) -> str:
    """Bytes: 512 B, 231 MB, 1.35 GB."""
    steps = 0
    while abs(value) >= 999.5 and steps < len(UNITS) - 1:
        value, steps = value / 1000, steps + 1
    return f"{value:.{2 if steps >= UNITS.index('GB') else 0}f} {UNITS[steps]}"


def duration(seconds: float) -> str:
    """Seconds: 0.8 s, 42 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
