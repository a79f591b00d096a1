"""Hidden states and gradients between blocks, kept in memory or on disk while a model is walked block by block."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Protocol

from torch import Tensor

from farss.storage import read_tensors, write_tensors


class States(Protocol):
    """One tensor per (boundary, batch) of each kind; boundary i lies before block i."""

    def has(self, kind: str, boundary: int, batch: int) -> bool:
        """Whether it is kept."""
        ...

    def write(self, kind: str, boundary: int, batch: int, state: Tensor) -> None:
        """Keep it."""
        ...

    def read(self, kind: str, boundary: int, batch: int) -> Tensor:
        """Give it back, on the CPU."""
        ...

    def drop(self, kind: str, boundary: int) -> None:
        """Forget a boundary's."""
        ...


class MemoryStates:
    """States in memory: fast, and lost with the process."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, int], dict[int, Tensor]] = {}

    def has(self, kind: str, boundary: int, batch: int) -> bool:
        """Whether it is kept."""
        return batch in self._kept.get((kind, boundary), {})

    def write(self, kind: str, boundary: int, batch: int, state: Tensor) -> None:
        """Keep it."""
        self._kept.setdefault((kind, boundary), {})[batch] = state.detach().cpu()

    def read(self, kind: str, boundary: int, batch: int) -> Tensor:
        """Give it back."""
        return self._kept[kind, boundary][batch]

    def drop(self, kind: str, boundary: int) -> None:
        """Forget a boundary's."""
        self._kept.pop((kind, boundary), None)


class DiskStates:
    """States on disk, each file whole or not there, so that a killed walk goes on from them.

    Files are read and closed again instead of mapped: mapped pages count as memory of the process.

    Args:
        folder: holds `KIND-BOUNDARY/BATCH.safetensors`.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def has(self, kind: str, boundary: int, batch: int) -> bool:
        """Whether it is kept."""
        return self._file(kind, boundary, batch).is_file()

    def write(self, kind: str, boundary: int, batch: int, state: Tensor) -> None:
        """Keep it.

        Raises:
            StorageError: if the disk is full or the folder cannot be written.
        """
        write_tensors(self._file(kind, boundary, batch), {"state": state})

    def read(self, kind: str, boundary: int, batch: int) -> Tensor:
        """Give it back.

        Raises:
            StorageError: if the file is missing or damaged.
        """
        return read_tensors(self._file(kind, boundary, batch))[0]["state"]

    def drop(self, kind: str, boundary: int) -> None:
        """Forget a boundary's."""
        shutil.rmtree(self._place(kind, boundary), ignore_errors=True)

    def _place(self, kind: str, boundary: int) -> Path:
        return self.folder / f"{kind}-{boundary:04d}"

    def _file(self, kind: str, boundary: int, batch: int) -> Path:
        return self._place(kind, boundary) / f"{batch:05d}.safetensors"
