"""Statistics as files: what model and data they are of, in shards that several processes take and one merges."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from farss.errors import ConfigError, DataError, StorageError
from farss.model.calibration import Example, Row
from farss.processes import require_one_process
from farss.reading import is_folder, loads
from farss.statistics.moments import Curvature, notes_of
from farss.storage.places import check_file_place

STATISTICS = "stats.safetensors"
NOTE = "origin"


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count` of the calibration examples, counted from one: every `count`-th of them."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """The shard written as `2/4`.

        Raises:
            ConfigError: if it is not written so, or there is no such part.
        """
        try:
            number, count = (int(part) for part in text.split("/"))
        except ValueError:
            raise ConfigError("a shard is written as I/N", expected="for example 2/4", got=text) from None
        if not 1 <= number <= count:
            raise ConfigError("there is no such shard", expected=f"1/{count} to {count}/{count}", got=text)
        return cls(number, count)

    def among(self, rows: Sequence[Row]) -> list[Row]:
        """This part of any rows; there may be none."""
        return list(rows[self.number - 1 :: self.count])

    def of(self, examples: Sequence[Example]) -> list[Example]:
        """This shard's examples.

        Raises:
            DataError: if it gets none.
        """
        mine = self.among(examples)
        if not mine:
            raise DataError("there are fewer calibration examples than shards", expected=self.count, got=len(examples))
        return mine


@dataclass(frozen=True)
class Origin:
    """What statistics were taken of.

    Attributes:
        model: fingerprint of the weights.
        dtype: the model's dtype during the pass.
        data: fingerprint of all calibration examples, those of other shards included.
        shards: numbers of the shards that are in these statistics, ascending.
        count: number of shards in all.
    """

    model: str
    dtype: str
    data: dict[str, Any]
    shards: tuple[int, ...] = (1,)
    count: int = 1

    @property
    def complete(self) -> bool:
        """Whether all shards are in."""
        return self.shards == tuple(range(1, self.count + 1))

    def notes(self) -> dict[str, str]:
        """As metadata of a statistics file."""
        return {NOTE: json.dumps(asdict(self))}


def save_statistics(curvature: Curvature, origin: Origin, path: str | Path) -> None:
    """Write statistics with what they were taken of.

    Raises:
        StorageError: if the file cannot be written.
    """
    curvature.save(path, origin.notes())


def load_statistics(path: str | Path) -> tuple[Curvature, Origin]:
    """Statistics written by `save_statistics`.

    Args:
        path: the file, or a folder that holds `stats.safetensors`.

    Raises:
        StorageError: if the file is missing, damaged, or does not say what it was taken of.
    """
    file = Path(path) / STATISTICS if is_folder(path) else Path(path)
    try:
        head = loads(notes_of(file)[NOTE])
        origin = Origin(**{**head, "shards": tuple(head["shards"])})
        numbers = [*origin.shards, origin.count]
        if not all(isinstance(number, int) and 0 < number <= origin.count for number in numbers):
            raise TypeError("a shard has no number")
    except (KeyError, TypeError, ValueError):
        raise StorageError("the file does not say what its statistics were taken of", where=file) from None
    return Curvature.load(file), origin


def check_usable(origin: Origin, model: str, where: object) -> None:
    """Check that statistics are whole and of this model.

    Raises:
        DataError: saying what differs or is missing.
    """
    if origin.model != model:
        raise DataError("the statistics are of another model", where=where, expected=model, got=origin.model)
    if not origin.complete:
        missing = sorted(set(range(1, origin.count + 1)) - set(origin.shards))
        raise DataError(
            "the statistics lack shards",
            where=where,
            expected=f"{origin.count} shards",
            got=f"without {', '.join(f'{number}/{origin.count}' for number in missing)}",
            do="take them with `farss init --shard`, and add them with `farss merge-stats`",
        )


def merge_statistics(paths: Sequence[str | Path], out: str | Path) -> Origin:
    """Write the sum of several shards' statistics to `out`, a new file, and say what is in it.

    Raises:
        OutputError: if there is something at `out`, or it lies in a part.
        DataError: if they are of different models, dtypes, data, settings or divisions, or a shard comes twice.
        StorageError: if a file cannot be read or `out` cannot be written.
    """
    require_one_process("farss merge-stats")
    check_file_place(out, {f"the part {path}": path for path in paths})
    if not paths:
        raise DataError("there are no statistics to merge", expected="at least one file or folder")
    total, origin = load_statistics(paths[0])
    for path in paths[1:]:
        part, other = load_statistics(path)
        compared = ("model", "dtype", "data", "count")
        differing = [name for name in compared if getattr(origin, name) != getattr(other, name)]
        if differing:
            name = differing[0]
            expected, got = getattr(origin, name), getattr(other, name)
            raise DataError(f"the statistics differ in their {name}", where=path, expected=expected, got=got)
        twice = sorted(set(origin.shards) & set(other.shards))
        if twice:
            raise DataError("a shard comes twice", where=path, got=f"{twice[0]}/{origin.count}", do="leave one out")
        total = total.merge(part)
        shards = tuple(sorted({*origin.shards, *other.shards}))
        origin = Origin(origin.model, origin.dtype, origin.data, shards, origin.count)
    save_statistics(total, origin, out)
    return origin
