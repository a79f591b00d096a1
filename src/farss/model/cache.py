"""Where farss keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """The cache folder: `$FARSS_CACHE`, else `$XDG_CACHE_HOME/farss`, else `~/.cache/farss`."""
    if named := os.environ.get("FARSS_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "farss"
