"""Where a file of the user is handed to a library: what the library raises over it becomes an error of ours."""

from __future__ import annotations

import re
import struct
from types import TracebackType
from typing import Self

from safetensors import SafetensorError

from farss.errors import FarssError
from farss.printable import shortened

RAISED_OVER_FILES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,  # RecursionError and torch's own errors among them
    SafetensorError,
    SyntaxError,
    TypeError,
    ValueError,
    re.error,
    struct.error,
)
"""What PyTorch, transformers, PEFT and safetensors raise over content they cannot use."""

LIBRARIES = {"datasets", "huggingface_hub", "jinja2", "peft", "pyarrow", "tokenizers", "transformers"}
"""Whose own classes of exceptions count too; they are not imported for it."""


class foreign:  # reads as a statement: `with foreign(AdapterError, ...)`
    """A block in which a library reads a file of the user; its errors are raised as `error`, ours pass.

    Only for calls that hand such a file over: an error of our own code inside the block would be blamed on the file.

    Args:
        error: class to raise.
        what: the mistake in one sentence.
        where: the file or folder.
        do: the next step for the user.
    """

    def __init__(self, error: type[FarssError], what: str, *, where: object, do: str | None = None) -> None:
        self.error, self.what, self.where, self.do = error, what, where, do

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or raised is None or not _of_a_library(kind):
            return
        raise self.error(self.what, where=self.where, got=told(raised), do=self.do) from raised


def told(raised: BaseException) -> str:
    """What an exception of a library says, in a length that fits into a message."""
    text = str(raised).strip()
    return shortened(f"{type(raised).__name__}: {text}" if text else type(raised).__name__)


def _of_a_library(kind: type[BaseException]) -> bool:
    # The tokenizers library raises bare `Exception`s, and its panics are no `Exception` at all.
    if kind is Exception or kind.__name__ == "PanicException" or kind.__module__.partition(".")[0] in LIBRARIES:
        return True
    return issubclass(kind, RAISED_OVER_FILES) and not issubclass(kind, FarssError)
