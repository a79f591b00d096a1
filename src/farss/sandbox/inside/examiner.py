"""The side of the tests: they run here, with every call of the program sent to its own process.

What comes back is plain data, so that equality, truth and order are Python's own. Something else is a `Reference`,
which can be called and asked for attributes, but neither compared nor taken for true: a test that does so judges
nothing.
"""

from __future__ import annotations

import builtins
import json
import sys
import types
from collections.abc import Iterator
from typing import Any, NoReturn

from . import solution, values

UNJUDGED, ENDED = 3, 4
"""Exit codes: a test asked what only the program itself could answer; the program ended while it was called."""


class ProgramError(Exception):
    """An exception that the program raised, of a type that is not Python's own."""


class ProgramEndedError(Exception):
    """The program ended while the tests were calling it."""


class UnjudgedError(Exception):
    """A test asked something of an object of the program that only the program could answer."""


class Line:
    """The connection to the program.

    Attributes:
        unjudged: why the tests judge nothing; None while they do.
        ended: whether the program has ended.
    """

    def __init__(self, reader: int, writer: int) -> None:
        self.answers = solution.lines_of(reader)
        self.writer = writer
        self.unjudged: str | None = None
        self.ended = False

    def ask(self, way: str, target: Any, *rest: Any) -> Any:
        """What the program answers.

        Raises:
            Exception: what the program raised.
            ProgramEndedError: if it ended.
            UnjudgedError: if question or answer cannot be sent.
        """
        try:
            question = values.dump([way, target, *rest], _number)
        except values.NoValueError as error:
            self.give_up(f"the tests hand over a {error}, which cannot be sent to the program")
        try:
            solution.send(self.writer, question)
        except BrokenPipeError:
            self._hung_up()
        answer = json.loads(next(self.answers, None) or self._hung_up())
        if "error" in answer:
            self._raise(*map(str, answer["error"]))
        try:
            return values.load(answer["value"], lambda number, kind: Reference(self, number, kind))
        except (values.NoValueError, KeyError, TypeError) as error:
            raise ProgramError(f"the answer is {error}") from None

    def give_up(self, why: str) -> NoReturn:
        """Say that the tests judge nothing.

        Raises:
            UnjudgedError: always.
        """
        self.unjudged = self.unjudged or why
        raise UnjudgedError(why)

    def _hung_up(self) -> NoReturn:
        self.ended = True
        raise ProgramEndedError("the program ended while the tests were calling it")

    def _raise(self, kind: str, text: str) -> NoReturn:
        if kind == "NoValueError":
            self.give_up(f"the program's answer is a {text}")
        known = getattr(builtins, kind, None)
        if isinstance(known, type) and issubclass(known, Exception) and known not in _NEED_MORE:
            raise known(text)
        raise ProgramError(f"{kind}: {text}")


_NEED_MORE = (UnicodeDecodeError, UnicodeEncodeError, UnicodeTranslateError, ExceptionGroup)


def _number(thing: Any) -> int:
    if type(thing) is not Reference:
        raise values.NoValueError(type(thing).__name__)
    return object.__getattribute__(thing, "_number")


class Reference:
    """Something that stays with the program."""

    def __init__(self, line: Line, number: int, kind: str) -> None:
        for name, value in (("_line", line), ("_number", number), ("_kind", kind)):
            object.__setattr__(self, name, value)

    def __call__(self, *given: Any, **named: Any) -> Any:
        """What the program gives for these arguments."""
        return self._line.ask("call", self, list(given), named)

    def __getattr__(self, name: str) -> Any:
        return self._line.ask("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._line.ask("set", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._line.ask("item", self, key)

    def __len__(self) -> int:
        return self._line.ask("len", self)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._line.ask("iter", self))

    def __str__(self) -> str:
        return self._line.ask("str", self)


def _refuse(name: str) -> Any:
    def refuse(self: Reference, *_: Any) -> NoReturn:
        line: Line = object.__getattribute__(self, "_line")
        kind = object.__getattribute__(self, "_kind")
        line.give_up(f"the tests ask for {name} of an object of the program's own type {kind!r}")

    return refuse


_OWN_ANSWERS = ("eq", "ne", "lt", "le", "gt", "ge", "bool", "contains", "hash", "add", "radd", "sub", "rsub", "mul")
_OWN_ANSWERS += ("rmul", "truediv", "rtruediv", "mod", "rmod", "pow", "rpow", "abs", "round", "int", "float", "index")
_OWN_ANSWERS += ("neg", "and", "rand", "or", "ror", "xor", "rxor", "floordiv", "rfloordiv", "divmod", "complex")
for _name in _OWN_ANSWERS:
    setattr(Reference, f"__{_name}__", _refuse(_name))


def examine(plan: dict[str, Any], reader: int, writer: int) -> None:
    """Run the tests to their end.

    Args:
        plan: `preamble` (what the tests may use besides), `names` (what they use of the program) and `tests`.
        reader: answers of the program.
        writer: questions to it.

    Raises:
        Exception: what a test raised.
        SystemExit: with the code that says why they judge nothing.
    """
    line = Line(reader, writer)
    module = types.ModuleType("tests")
    exec(compile(plan["preamble"], "<preamble>", "exec", dont_inherit=True), module.__dict__)
    try:
        for name in plan["names"]:
            module.__dict__.pop(name, None)
            try:
                module.__dict__[name] = line.ask("name", name)
            except NameError:
                continue  # the tests will say so if they need it
        exec(compile(plan["tests"], "<tests>", "exec", dont_inherit=True), module.__dict__)
    finally:
        if line.unjudged is not None or line.ended:
            print(line.unjudged or "", file=sys.stderr)
            sys.exit(ENDED if line.unjudged is None else UNJUDGED)
