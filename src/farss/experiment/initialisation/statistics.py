"""Statistics as files: what model and data they are of, in shards that several processes take and one merges."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from farss.errors import ConfigError, DataError, StorageError
from farss.methods import get_method
from farss.methods.statistics import CURVATURE, OWN, brought
from farss.model.calibration import Example, Row
from farss.processes import require_one_process
from farss.reading import is_folder, loads
from farss.statistics.kinds import Statistic
from farss.statistics.summed import Summed, notes_of
from farss.storage import new_folder
from farss.storage.places import check_file_place

STATISTICS = CURVATURE.filename
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
        statistic: its name.
        method: that brings the statistic; None for one of farss.
    """

    model: str
    dtype: str
    data: dict[str, Any]
    shards: tuple[int, ...] = (1,)
    count: int = 1
    statistic: str = CURVATURE.name
    method: str | None = None

    @property
    def kind(self) -> Statistic[Summed]:
        """The statistic.

        Raises:
            ConfigError: if the method that brings it is not installed, or brings it no longer.
        """
        if self.statistic in OWN:
            return OWN[self.statistic]
        theirs = {one.name: one for one in brought(get_method(self.method or self.statistic))}
        if self.statistic not in theirs:
            raise ConfigError(
                "a statistic is not known",
                got=self.statistic,
                expected=", ".join([*OWN, *theirs]),
                do=f"install the version of the method `{self.method}` that it was taken with",
            )
        return theirs[self.statistic]

    @property
    def complete(self) -> bool:
        """Whether all shards are in."""
        return self.shards == tuple(range(1, self.count + 1))

    def notes(self) -> dict[str, str]:
        """As metadata of a statistics file."""
        return {NOTE: json.dumps(asdict(self))}


def save_statistics(summed: Summed, origin: Origin, path: str | Path) -> None:
    """Write a statistic with what it was taken of.

    Raises:
        StorageError: if the file cannot be written.
    """
    summed.save(path, origin.notes())


def load_statistics(path: str | Path) -> tuple[Summed, Origin]:
    """A statistic written by `save_statistics`.

    Args:
        path: the file, or a folder that holds `stats.safetensors`.

    Raises:
        StorageError: if the file is missing, damaged, or does not say what it was taken of.
        ConfigError: if it is of a method that is not installed.
    """
    file = Path(path) / STATISTICS if is_folder(path) else Path(path)
    origin = load_origin(file)
    return origin.kind.load(file), origin


def statistics_in(path: str | Path) -> dict[str, Path]:
    """The files of statistics by their names: the file itself, or those in a folder.

    Raises:
        StorageError: if there are none, or a file is damaged.
    """
    if not is_folder(path):
        return {load_origin(Path(path)).statistic: Path(path)}
    found = {file: _origin(file) for file in sorted(Path(path).glob("*.safetensors"))}
    names = {origin.statistic: file for file, origin in found.items() if origin is not None}
    return names or {load_origin(Path(path) / STATISTICS).statistic: Path(path) / STATISTICS}


def load_origin(file: Path) -> Origin:
    """What a file of a statistic says that it was taken of.

    Raises:
        StorageError: if the file is missing, damaged, or does not say it.
    """
    origin = _origin(file)
    if origin is None:
        raise StorageError("the file does not say what its statistics were taken of", where=file)
    return origin


def _origin(file: Path) -> Origin | None:
    """None where a file does not say what it was taken of, as those of other things do not."""
    try:
        head = loads(notes_of(file)[NOTE])
        origin = Origin(**{**head, "shards": tuple(head["shards"])})
        numbers = [*origin.shards, origin.count]
        if not all(isinstance(number, int) and 0 < number <= origin.count for number in numbers):
            raise TypeError("a shard has no number")
    except (KeyError, TypeError, ValueError):
        return None
    return origin


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


def merge_statistics(paths: Sequence[str | Path], out: str | Path) -> list[Origin]:
    """Write the sums of several shards' statistics, and say what is in them.

    Args:
        paths: files, or folders of `farss init --shard`; each with the same statistics.
        out: a new file for one statistic, a new folder for several.

    Raises:
        OutputError: if there is something at `out`, or it lies in a part.
        DataError: if they are of different models, dtypes, data, settings or divisions, or a shard comes twice.
        StorageError: if a file cannot be read or `out` cannot be written.
    """
    require_one_process("farss merge-stats")
    check_file_place(out, {f"the part {path}": path for path in paths})
    if not paths:
        raise DataError("there are no statistics to merge", expected="at least one file or folder")
    parts = [statistics_in(path) for path in paths]
    for path, part in zip(paths, parts, strict=True):
        if part.keys() != parts[0].keys():
            expected, got = (", ".join(sorted(names)) for names in (parts[0], part))
            raise DataError("the parts hold different statistics", where=path, expected=expected, got=got)
    merged = {name: _merged([part[name] for part in parts]) for name in parts[0]}
    if len(merged) == 1:
        ((total, origin),) = merged.values()
        save_statistics(total, origin, out)
    else:
        with new_folder(out, "merge-stats") as folder:
            for total, origin in merged.values():
                save_statistics(total, origin, folder / origin.kind.filename)
    return [origin for _, origin in merged.values()]


def _merged(files: Sequence[Path]) -> tuple[Summed, Origin]:
    """The sum of one statistic's parts."""
    total, origin = load_statistics(files[0])
    for file in files[1:]:
        part, other = load_statistics(file)
        compared = ("model", "dtype", "data", "count", "statistic")
        differing = [name for name in compared if getattr(origin, name) != getattr(other, name)]
        if differing:
            name = differing[0]
            expected, got = getattr(origin, name), getattr(other, name)
            raise DataError(f"the statistics differ in their {name}", where=file, expected=expected, got=got)
        twice = sorted(set(origin.shards) & set(other.shards))
        if twice:
            raise DataError("a shard comes twice", where=file, got=f"{twice[0]}/{origin.count}", do="leave one out")
        total = total.merge(part)
        origin = dataclasses.replace(origin, shards=tuple(sorted({*origin.shards, *other.shards})))
    return total, origin
