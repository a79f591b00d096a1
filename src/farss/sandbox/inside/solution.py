"""The side of a program that is examined: it answers calls, arguments in and plain data out, and never sees a test."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

from . import values


def lines_of(reader: int) -> Iterator[str]:
    """The lines that come in on a descriptor, until it is closed."""
    with os.fdopen(reader, encoding="ascii", newline="\n", closefd=False) as stream:
        yield from stream


def send(writer: int, answer: Any) -> None:
    """Write one line, all of it."""
    rest = memoryview(json.dumps(answer).encode("ascii") + b"\n")
    while rest:
        rest = rest[os.write(writer, rest) :]


class Solution:
    """The names of a program, and what it gave out that is not plain data.

    Args:
        names: the program's module.
    """

    def __init__(self, names: dict[str, Any]) -> None:
        self.names = names
        self.kept: list[Any] = []

    def serve(self, reader: int, writer: int) -> None:
        """Answer until the examiner hangs up.

        Raises:
            MemoryError: if the program ran out of memory.
        """
        for line in lines_of(reader):
            send(writer, self.answer(line))

    def answer(self, line: str) -> dict[str, Any]:
        """What one call gives: `value`, or `error` (type and text of the exception)."""
        try:
            name, target, *rest = values.load(json.loads(line), lambda number, _: self.kept[number])
            return {"value": values.dump(WAYS[name](self, target, *rest), self.keep)}
        except MemoryError:
            raise
        except values.NoValueError as error:
            return {"error": ["NoValueError", str(error)]}
        except BaseException as error:  # whatever a program raises, SystemExit included, is the result of the call
            return {"error": [type(error).__name__, _told(error)]}

    def keep(self, thing: Any) -> int:
        """Keep what cannot be sent; its number."""
        self.kept.append(thing)
        return len(self.kept) - 1

    def named(self, name: str) -> Any:
        """What the program calls by this name.

        Raises:
            NameError: if nothing.
        """
        if name not in self.names:
            raise NameError(f"name '{name}' is not defined")
        return self.names[name]


def _told(error: BaseException) -> str:
    try:
        return str(error)[:1000]
    except Exception:  # its own __str__ may do anything
        return ""


WAYS: dict[str, Callable[..., Any]] = {
    "name": Solution.named,
    "call": lambda _, target, given, named: target(*given, **named),
    "get": lambda _, target, name: getattr(target, name),
    "set": lambda _, target, name, value: setattr(target, name, value),
    "item": lambda _, target, key: target[key],
    "len": lambda _, target: len(target),
    "iter": lambda _, target: [*itertools.islice(target, values.MOST_STEPS)],
    "str": lambda _, target: str(target),
}
