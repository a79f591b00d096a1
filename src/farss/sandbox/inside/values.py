"""Values as text, so that nothing but plain data goes from one process to another.

A value is a list of nodes, children first, each `[kind, items]`, and an item that stands for the whole. An item is
null, a truth value, a text, `[number]` (a node), `{"i": hexadecimal}` or `{"f": hexadecimal}` (numbers, of any size
and exact). What is contained twice is one node, so that two names for one list stay that. Of a subclass of a plain type
only the plain part is read, by the plain type's own methods: an answer cannot bring its own idea of equality along.
"""

from __future__ import annotations

import datetime
import decimal
import fractions
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any

MOST_NODES = 1_000_000
MOST_STEPS = 100_000
"""Taken from an iterator, which may never end."""

TYPES = (bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset, type(None), object)
NAMED_TYPES = {kind.__name__: kind for kind in TYPES}


class NoValueError(Exception):
    """Something is not plain data; the message names its type."""


def dump(value: Any, handle: Callable[[Any], int] | None = None) -> list[Any]:
    """A value as `[nodes, item]`, ready for JSON.

    Args:
        value: plain data.
        handle: gives the number under which something else is kept; None where nothing else may be sent.

    Raises:
        NoValueError: if the value contains itself, is too large, or holds what is not plain and has no handle.
    """
    return _Writer(handle).write(value)


class _Writer:
    def __init__(self, handle: Callable[[Any], int] | None) -> None:
        self.handle = handle
        self.nodes: list[list[Any]] = []
        self.known: dict[int, int] = {}
        self.kept: list[Any] = []  # so that no identity is used twice

    def write(self, value: Any) -> list[Any]:
        """Children before parents, without recursion: however deep the value, the stack is not."""
        stack: list[tuple[Any, list[Any] | None, str]] = [(value, None, "")]
        open_: set[int] = set()
        while stack:
            current, parts, kind = stack.pop()
            if id(current) in self.known or (parts is None and _scalar(current) is not None):
                continue
            if parts is not None:
                open_.discard(id(current))
                self._add(current, kind, [self._item(part) for part in parts])
                continue
            kind, parts = _opened(current)
            if kind == "handle":
                if self.handle is None:
                    raise NoValueError(type(current).__name__)
                self._add(current, kind, [self._item(self.handle(current)), self._item(type(current).__name__)])
                continue
            open_.add(id(current))
            self.kept += [current, parts]
            stack.append((current, parts, kind))
            stack += [(part, None, "") for part in parts]
            if any(id(part) in open_ for part in parts):
                raise NoValueError(f"{type(current).__name__} that contains itself")
        return [self.nodes, self._item(value)]

    def _add(self, current: Any, kind: str, items: list[Any]) -> None:
        if len(self.nodes) >= MOST_NODES:
            raise NoValueError("more than can be sent")
        self.kept.append(current)
        self.known[id(current)] = len(self.nodes)
        self.nodes.append([kind, items])

    def _item(self, value: Any) -> Any:
        known = self.known.get(id(value))
        if known is not None:
            return [known]
        scalar = _scalar(value)
        assert scalar is not None
        return scalar[0]


def _scalar(value: Any) -> list[Any] | None:
    """The item of a value without parts, in a list; None for others."""
    if value is None or value is True or value is False:
        return [value]
    if isinstance(value, str):
        return [str.__str__(value)]
    if isinstance(value, int):
        return [{"i": format(int.__index__(value), "x")}]
    if isinstance(value, float):
        return [{"f": float.hex(value)}]
    return None


def _opened(value: Any) -> tuple[str, list[Any]]:
    """Kind and parts of a value that has parts."""
    for kind, (plain, parts) in _PLAIN.items():
        if isinstance(value, plain):
            return kind, parts(value)
    if isinstance(value, type) and NAMED_TYPES.get(value.__name__) is value:
        return "type", [value.__name__]
    if isinstance(value, Iterator):
        return "iterator", [part for part, _ in zip(value, range(MOST_STEPS), strict=False)]
    return "handle", []


def _pairs(value: Any) -> list[Any]:
    return [part for pair in dict.items(value) for part in pair]


_VIEWS = ({}.keys(), {}.values(), {}.items())
_PLAIN: dict[str, tuple[Any, Callable[[Any], list[Any]]]] = {
    "list": (list, lambda value: [*list.__iter__(value)]),
    "tuple": (tuple, lambda value: [*tuple.__iter__(value)]),
    "ordered": (OrderedDict, lambda value: [part for pair in OrderedDict.items(value) for part in pair]),
    "dict": (dict, _pairs),
    "set": (set, lambda value: [*set.__iter__(value)]),
    "frozenset": (frozenset, lambda value: [*frozenset.__iter__(value)]),
    "deque": (deque, lambda value: [*deque.__iter__(value)]),
    "bytes": (bytes, lambda value: [bytes.hex(value)]),
    "bytearray": (bytearray, lambda value: [bytearray.hex(value)]),
    "complex": (complex, lambda value: [complex.__complex__(value).real, complex.__complex__(value).imag]),
    "range": (range, lambda value: [value.start, value.stop, value.step]),
    "decimal": (decimal.Decimal, lambda value: [decimal.Decimal.__str__(value)]),
    "fraction": (fractions.Fraction, lambda value: [value.numerator, value.denominator]),
    "datetime": (datetime.datetime, lambda value: [datetime.datetime.isoformat(value)]),
    "date": (datetime.date, lambda value: [datetime.date.isoformat(value)]),
    "time": (datetime.time, lambda value: [datetime.time.isoformat(value)]),
    "timedelta": (datetime.timedelta, lambda value: [value.days, value.seconds, value.microseconds]),
    "keys": (type(_VIEWS[0]), lambda value: [*value]),
    "values": (type(_VIEWS[1]), lambda value: [*value]),
    "items": (type(_VIEWS[2]), lambda value: [part for pair in value for part in pair]),
}


def _paired(parts: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(parts[::2], parts[1::2], strict=True))


_BUILT: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "ordered": lambda parts: OrderedDict(_paired(parts)),
    "dict": lambda parts: dict(_paired(parts)),
    "set": set,
    "frozenset": frozenset,
    "deque": deque,
    "bytes": lambda parts: bytes.fromhex(parts[0]),
    "bytearray": lambda parts: bytearray.fromhex(parts[0]),
    "complex": lambda parts: complex(*parts),
    "range": lambda parts: range(*parts),
    "decimal": lambda parts: decimal.Decimal(parts[0]),
    "fraction": lambda parts: fractions.Fraction(*parts),
    "datetime": lambda parts: datetime.datetime.fromisoformat(parts[0]),
    "date": lambda parts: datetime.date.fromisoformat(parts[0]),
    "time": lambda parts: datetime.time.fromisoformat(parts[0]),
    "timedelta": lambda parts: datetime.timedelta(*parts),
    "keys": lambda parts: dict.fromkeys(parts).keys(),
    "values": lambda parts: dict(enumerate(parts)).values(),
    "items": lambda parts: dict(_paired(parts)).items(),
    "iterator": iter,
    "type": lambda parts: NAMED_TYPES[parts[0]],
}


def load(message: list[Any], handle: Callable[[int, str], Any]) -> Any:
    """The value of a message from `dump`; a list of the sender's is a new list here.

    Args:
        message: `[nodes, item]`, from whoever it may be.
        handle: what stands for something the sender keeps, of its number and the name of its type.

    Raises:
        NoValueError: if the message does not describe a value.
    """
    try:
        nodes, whole = message
        built: list[Any] = []

        def item(part: Any) -> Any:
            if isinstance(part, list):
                return built[part[0]]
            if isinstance(part, dict):
                return int(part["i"], 16) if "i" in part else float.fromhex(part["f"])
            return part

        for kind, items in nodes:
            parts = [item(part) for part in items]
            built.append(handle(*parts) if kind == "handle" else _BUILT[kind](parts))
        return item(whole)
    except (TypeError, ValueError, LookupError, ArithmeticError) as error:
        raise NoValueError(f"what cannot be read ({type(error).__name__})") from error
