"""What others wrote is shown as text: controls escaped, lengths bounded, and nothing else changed."""

from __future__ import annotations

import io

import pytest

from farss.errors import FarssError
from farss.printable import Escaping, printable, shortened

ACTIVE = ["\x1b[2J", "\x1b]0;title\x07", "\x9b31m", "\x7f", "\u202eevil", "\u2066", "\ud800", "\u2028", "\r", "\x00"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.case("control characters of names and data reach the terminal")
@pytest.mark.parametrize("text", ACTIVE)
def test_what_a_terminal_obeys_is_escaped_everywhere(text):
    for shown in (printable(text), str(FarssError(text, where=text, expected=text, got=text, do=text))):
        assert all(char.isprintable() or char in "\n" for char in shown)
        shown.encode("utf-8")
    out = io.StringIO()
    Escaping(out).write(text)
    assert out.getvalue().isprintable()


@pytest.mark.parametrize("text", ["Zürich 東京 naïve", "a\tb\nc", "non-breaking\u00a0space", "emoji 🙂"])
def test_ordinary_text_is_left_alone(text):
    assert printable(text) == text
    assert printable(printable("\x1b[1m")) == "\\x1b[1m"


def test_a_place_is_told_in_one_line():
    assert str(FarssError("wrong", where="a\n  what to do: rm -rf ~")).count("\n") == 1


def test_messages_are_short():
    long = "x" * 100_000
    assert len(str(FarssError(long, where=long, expected=long, got=long, do=long))) < 4_000
    assert len(shortened(long, 100)) < 160 and shortened("short") == "short"
    assert FarssError("a", got=long).got == long


def test_our_own_styling_passes_on_a_terminal_only():
    styled = "\x1b[1;31mred\x1b[0m \x1b[2K\r\x1b]0;title\x07\x1b[2J"
    terminal, pipe = Terminal(), io.StringIO()
    Escaping(terminal).write(styled)
    Escaping(pipe).write(styled)
    assert terminal.getvalue() == "\x1b[1;31mred\x1b[0m \x1b[2K\r\\x1b]0;title\\x07\\x1b[2J"
    assert "\x1b" not in pipe.getvalue()
