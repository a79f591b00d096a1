"""Files read with limits: ordinary files only, of bounded size, depth and numbers, each key once.

Everything that is opened by a name out of a request or out of another file goes through here, and what farss itself
left on a disk, which may have been cut short, edited or brought from elsewhere since. What such a file may
hold is checked where it is used; what is checked here would otherwise stop the reading itself, or what comes after it:
a pipe that never ends, a megabyte of brackets, an integer of ten thousand digits.
"""

from __future__ import annotations

import gzip
import json
import os
import stat
import warnings
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from farss.errors import FarssError

MIB = 1 << 20
DEPTH = 40
"""Brackets inside brackets."""
DIGITS = 300
"""Of an integer; a float holds no more."""
LONGEST = 500
"""Characters that are said of a mistake."""
AMOUNT: dict[str, Any] = {"type": "number", "minimum": 0}
COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
TEXT: dict[str, Any] = {"type": "string"}
OBJECT: dict[str, Any] = {"type": "object"}

Read = TypeVar("Read")

_SURROGATES = ("\\ud", "\\uD", "\\Ud", "\\UD")


@dataclass(frozen=True)
class Document:
    """A kind of text file: what messages call it, and what of it is too much.

    Attributes:
        name: as in `the NAME is not valid JSON`.
        error: class of its errors.
        most_bytes: of the file.
        finite: whether NaN and Infinity, which JSON itself does not know, are refused.
        missing: what to do where the file does not exist.
        damaged: what to do where it cannot be used.
    """

    name: str
    error: type[FarssError]
    most_bytes: int = 16 * MIB
    finite: bool = True
    missing: str = "check the path"
    damaged: str | None = None

    def read_bytes(self, path: str | Path) -> bytes:
        """The content of a file.

        Raises:
            FarssError: as `error`, if it is missing, no ordinary file, too large, or cannot be read.
        """
        try:
            with open_ordinary(path) as file:
                content = file.read(self.most_bytes + 1)
        except FileNotFoundError:
            raise self.error(f"the {self.name} file does not exist", where=path, do=self.missing) from None
        except OSError as error:
            raise self._refusal(f"the {self.name} file cannot be read", path, got=str(error)) from None
        return self._bounded(content, path)

    def read_packed(self, path: str | Path) -> str:
        """The text in a file packed with gzip.

        Raises:
            FarssError: as `read_text`, and if it is damaged, or unpacks to too much.
        """
        try:
            with open_ordinary(path) as file, gzip.GzipFile(fileobj=file) as packed:
                content = packed.read(self.most_bytes + 1)
            return self._bounded(content, path).decode("utf-8")
        except FileNotFoundError:
            raise self.error(f"the {self.name} file does not exist", where=path, do=self.missing) from None
        except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
            raise self._refusal(f"the {self.name} file cannot be read", path, got=str(error)) from None

    def read_text(self, path: str | Path) -> str:
        """The text of a file; a byte order mark is left out.

        Raises:
            FarssError: as `read_bytes`, and if it is not UTF-8.
        """
        try:
            return self.read_bytes(path).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise self._refusal(f"the {self.name} file is not UTF-8 text", path, got=str(error)) from None

    def read_json(self, path: str | Path) -> Any:
        """The value in a JSON file.

        Raises:
            FarssError: as `read_text` and `parse_json`.
        """
        return self.parse_json(self.read_text(path), path)

    def parse_json(self, text: str, where: object) -> Any:
        """The value that a JSON text stands for.

        Raises:
            FarssError: as `error`, if it is not JSON, is nested too deeply, or holds a key twice in one object, an
                integer of too many digits, a lone surrogate, or (with `finite`) a number that is none.
        """
        try:
            return loads(text, finite=self.finite)
        except json.JSONDecodeError as error:
            raise self._refusal(f"the {self.name} is not valid JSON", where, got=str(error)) from None
        except Refused as refused:
            what = f"the {self.name} cannot be used: {refused.what}"
            raise self._refusal(what, where, expected=refused.expected, got=refused.got) from None

    def read_object(self, path: str | Path) -> dict[str, Any]:
        """The object in a JSON file.

        Raises:
            FarssError: as `read_json`, and if it is something else.
        """
        value = self.read_json(path)
        if not isinstance(value, dict):
            raise self._refusal(f"the {self.name} must be a JSON object", path, got=type(value).__name__)
        return value

    def read_as(self, path: str | Path, schema: dict[str, Any]) -> Any:
        """The value in a JSON file, which is as `schema` says.

        Raises:
            FarssError: as `read_json`, and if it is something else, naming the place in the file.
        """
        return self.checked(self.read_json(path), schema, path)

    def parse_as(self, text: str, schema: dict[str, Any], where: object) -> Any:
        """The value that a JSON text stands for, which is as `schema` says.

        Raises:
            FarssError: as `parse_json`, and if it is something else, naming the place in it.
        """
        return self.checked(self.parse_json(text, where), schema, where)

    def checked(self, value: Any, schema: dict[str, Any], where: object) -> Any:
        """The value of such a file as it is.

        Raises:
            FarssError: as `error`, if it is not as `schema` says.
        """
        mistake = first_mistake(value, schema)
        if mistake is not None:
            place, expected, got = mistake
            what = f"the {self.name} is damaged at `{place or 'the top'}`"
            raise self._refusal(what, where, expected=expected, got=got)
        return value

    def _bounded(self, content: bytes, path: str | Path) -> bytes:
        if len(content) > self.most_bytes:
            most = f"at most {self.most_bytes:,} bytes"
            raise self._refusal(f"the {self.name} file is larger than one can be", path, expected=most)
        return content

    def _refusal(self, what: str, where: object, *, expected: object = None, got: object = None) -> FarssError:
        return self.error(what, where=where, expected=expected, got=got, do=self.damaged)


def object_of(**properties: Any) -> dict[str, Any]:
    """The schema of an object with all of these, and perhaps more."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def first_mistake(value: Any, schema: dict[str, Any]) -> tuple[str, str, str] | None:
    """Where `value` is not as `schema` says: the place, what was expected and what came; None if it is."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    mistake = best_match(Draft202012Validator(schema).iter_errors(value))
    if mistake is None:
        return None
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in mistake.absolute_path)
    return place.lstrip("."), f"{mistake.validator}: {mistake.validator_value}"[:LONGEST], mistake.message[:LONGEST]


def unless_damaged(read: Callable[[], Read], instead: str) -> Read | None:
    """What is read of a file that only saves work; None where it cannot be used, which is said in one line.

    Args:
        read: reads it.
        instead: what is done then, as in "it is computed again".
    """
    try:
        return read()
    except FarssError as error:
        warnings.warn(f"{error.what} ({error.where}): {instead}", stacklevel=3)
        return None


class Refused(ValueError):
    """What of a text is refused, before it is known whose text it is."""

    def __init__(self, what: str, got: str | None = None, expected: str | None = None) -> None:
        super().__init__(what)
        self.what, self.got, self.expected = what, got, expected


TOO_DEEP = Refused("it is nested too deeply", expected=f"at most {DEPTH} levels")


def loads(text: str, *, finite: bool = False) -> Any:
    """The value that a JSON text stands for.

    Args:
        text: one value.
        finite: whether NaN and Infinity, which JSON itself does not know, are refused.

    Raises:
        JSONDecodeError: if it is not JSON.
        Refused: if it is nested too deeply, or holds a key twice in one object, an integer of too many digits, a lone
            surrogate, or (with `finite`) a number that is none.
    """
    constant = _no_constant if finite else float
    try:
        value = json.loads(text, parse_int=_integer, object_pairs_hook=_each_key_once, parse_constant=constant)
    except RecursionError:
        raise TOO_DEEP from None
    if text.count("[") + text.count("{") > DEPTH:  # else it cannot be that deep
        check_depth(value)
    if any(mark in text for mark in _SURROGATES) and not encodable(value):
        raise Refused("it holds half of a character", "a lone surrogate")
    return value


def open_ordinary(path: str | Path) -> BinaryIO:
    """An ordinary file opened for reading; a pipe or device is not waited for.

    Raises:
        OSError: if it cannot be opened, or is something else than a file.
    """
    try:
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except ValueError as error:  # the name holds NUL, or cannot be encoded
        raise OSError(str(error)) from None
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError("it is no ordinary file (a folder, a pipe or a device)")
    return os.fdopen(number, "rb")


def is_folder(name: str | Path) -> bool:
    """Whether a folder has this name; False too, where pathlib raises, of what can be the name of nothing."""
    return os.path.isdir(name)


def is_file(name: str | Path) -> bool:
    """Whether a file has this name; False too, where pathlib raises, of what can be the name of nothing."""
    return os.path.isfile(name)


def stays_inside(name: object) -> bool:
    """Whether a name that stands in a file of a folder is one of something in that folder.

    It is about the name only: a link of that name may lead anywhere, as in the hub's cache.
    """
    if not isinstance(name, str) or not name or "\0" in name or "\\" in name or name[1:2] == ":":
        return False
    return not name.startswith("/") and ".." not in name.split("/") and len(name.encode("utf-8", "replace")) < 1024


def check_depth(value: object, most: int = DEPTH) -> None:
    """Check that no list or mapping lies more than `most` levels deep.

    Raises:
        Refused: if one does.
    """
    level: list[object] = [value]
    for _ in range(most + 1):
        level = [inner for outer in level for inner in _parts(outer)]
        if not level:
            return
    raise TOO_DEEP


def encodable(value: object) -> bool:
    """Whether all texts in `value` can be written as UTF-8, that is, hold no lone surrogate."""
    if isinstance(value, str):
        return not any("\ud800" <= char <= "\udfff" for char in value)
    if isinstance(value, dict):
        return all(encodable(key) and encodable(inner) for key, inner in value.items())
    return all(map(encodable, value)) if isinstance(value, (list, tuple)) else True


def _parts(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, (list, tuple)) else ()


def _no_constant(text: str) -> float:
    raise Refused("a number is NaN or infinite", text)


def _integer(text: str) -> int:
    if len(text) > DIGITS:
        raise Refused(f"a number has more than {DIGITS} digits", f"{len(text):,} digits")
    return int(text)


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise Refused("a key comes twice", twice)
    return made
