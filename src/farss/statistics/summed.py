"""What every statistic is: sums and counts over data, which add up over any partition of it."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from safetensors import SafetensorError, safe_open
from torch import Tensor

from farss.errors import DataError, StorageError
from farss.reading import open_ordinary


class Summed(ABC):
    """Sums over data, one statistic of a model.

    Attributes:
        COUNTS: names of the attributes that count data; they add up like the sums. The last one is of
            sequences.
        restored: sequences that an interrupted pass had read already; not saved.
    """

    COUNTS: ClassVar[tuple[str, ...]]
    restored: int = 0

    @abstractmethod
    def parts(self) -> dict[str, Tensor]:
        """The sums by name: the tensors themselves, so that adding to them adds to the statistic."""

    @abstractmethod
    def identity(self) -> Any:
        """What is equal of statistics that can be added: of which modules, and how data were read."""

    @abstractmethod
    def save(self, path: str | Path, notes: Mapping[str, str] | None = None) -> None:
        """Write everything as one safetensors file.

        Args:
            path: the file.
            notes: further metadata, given back by `notes_of`.

        Raises:
            StorageError: if the file cannot be written.
        """

    @classmethod
    @abstractmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote, on the CPU.

        Raises:
            StorageError: if the file is missing, damaged, or holds something else.
        """

    @property
    def bytes(self) -> int:
        """Memory of all sums."""
        return sum(part.numel() * part.element_size() for part in self.parts().values())

    @property
    def counts(self) -> tuple[int, ...]:
        """The counts, in the order of `COUNTS`."""
        return tuple(getattr(self, name) for name in self.COUNTS)

    def set_counts(self, counts: tuple[int, ...]) -> None:
        """Replace the counts, in the order of `COUNTS`."""
        for name, count in zip(self.COUNTS, counts, strict=True):
            setattr(self, name, count)

    def check_like(self, other: Self) -> None:
        """Check that `other` is of the same modules and settings.

        Raises:
            DataError: if it is not.
        """
        if type(self) is not type(other) or self.identity() != other.identity():
            raise DataError(
                "statistics of different modules or settings cannot be merged",
                expected=getattr(self, "settings", type(self).__name__),
                got=getattr(other, "settings", type(other).__name__),
            )

    def add_(self, other: Self) -> None:
        """Add the statistic of other data, in place.

        Raises:
            DataError: if the two are of different modules or settings.
        """
        self.check_like(other)
        theirs = other.parts()
        for name, mine in self.parts().items():
            mine.add_(theirs[name].to(mine.device))
        self.set_counts(tuple(map(sum, zip(self.counts, other.counts, strict=True))))

    def merge(self, other: Self) -> Self:
        """The statistic of both data sets together; neither operand changes.

        Raises:
            DataError: if the two are of different modules or settings.
        """
        self.check_like(other)
        total = copy.deepcopy(self)
        total.add_(other)
        return total

    def take(self, other: Self) -> None:
        """Become equal to `other`, in place, on the own device.

        Raises:
            DataError: if `other` is of other modules or settings.
        """
        self.check_like(other)
        theirs = other.parts()
        for name, mine in self.parts().items():
            mine.copy_(theirs[name])
        self.set_counts(other.counts)


def notes_of(path: str | Path) -> dict[str, str]:
    """The metadata of a file of statistics: the notes it was saved with, and its own head.

    Raises:
        StorageError: if the file is missing or damaged.
    """
    try:
        open_ordinary(path).close()  # a pipe would be waited for
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise StorageError("the tensor file cannot be read", where=path, got=str(error)) from error
