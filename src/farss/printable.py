"""Text of others made fit to be shown: control characters escaped, length bounded.

Names and values out of files reach messages, tables and warnings. A terminal obeys what such a text holds: it can clear
the screen, set the title, or turn the reading direction round.
"""

from __future__ import annotations

import contextlib
import re
import sys
import unicodedata
import warnings
from collections.abc import Iterator
from typing import Any

LONGEST = 400
"""Characters of one value in a message; the middle of a longer one is left out."""

STYLING = re.compile(r"\x1b\[(?:[0-9;]*m|[0-9]*[AK]|2K|\?25[hl])|\r")
"""What our own tables and bars write to a terminal: colours, and moving within the lines just written."""


def printable(text: str, *, lines: bool = True) -> str:
    """`text` with every character escaped that is no visible one: controls, direction marks, lone surrogates.

    Args:
        text: any text; what is escaped already stays as it is.
        lines: whether line breaks and tabs stay.
    """
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(char if char in kept or _visible(char) else _escaped(char) for char in text)


def shortened(value: object, longest: int = LONGEST) -> str:
    """A value as text that fits into a message, its middle left out where it is longer than `longest`."""
    text = str(value)
    if len(text) <= longest:
        return text
    head, tail = text[: longest * 3 // 4], text[-longest // 8 :]
    return f"{head} ... ({len(text) - len(head) - len(tail):,} characters left out) ... {tail}"


class Escaping:
    """A text stream in place of another one: what is written comes out escaped.

    On a terminal the styling of our own tables and bars passes; elsewhere nothing but text does.

    Args:
        stream: receives what is written.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write `text` escaped; the number of characters taken."""
        if not self.stream.isatty():
            self.stream.write(printable(text))
            return len(text)
        done = 0
        for found in STYLING.finditer(text):
            self.stream.write(printable(text[done : found.start()]) + found[0])
            done = found.end()
        self.stream.write(printable(text[done:]))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each of `lines`."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def escaping() -> Iterator[None]:
    """Everything written to standard output and standard error inside the block is escaped."""
    with contextlib.redirect_stdout(_once(sys.stdout)), contextlib.redirect_stderr(_once(sys.stderr)):
        yield


def escape_from_here() -> None:
    """Everything written to standard output and standard error by this process is escaped, to its very end.

    For processes of their own: the traceback of an error that nobody catches is written when all blocks have ended.
    """
    sys.stdout, sys.stderr = _once(sys.stdout), _once(sys.stderr)


def _once(stream: Any) -> Any:
    return stream if isinstance(stream, Escaping) or stream is None else Escaping(stream)


def _visible(char: str) -> bool:
    return char.isprintable() or unicodedata.category(char) == "Zs"


def _escaped(char: str) -> str:
    code = ord(char)
    if code < 0x7F:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"  # of JSON's own form, which DEL needs


def plain_notes() -> None:
    """Have warnings printed as one line for people, without the place in our code that gives them."""
    warnings.formatwarning = lambda message, *_, **__: f"note: {message}\n"
