"""The page of errors says what is so: its tests exist, and its messages are in the source."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
ROWS = [
    line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| ") and "first line" not in line
]


def text_under(folder: str) -> str:
    return "\n".join(file.read_text(encoding="utf-8") for file in sorted((ROOT / folder).rglob("*.py")))


def test_every_row_names_a_test_that_exists():
    existing = set(re.findall(r"def (test_\w+)", text_under("tests")))
    assert len(ROWS) > 40
    for row in ROWS:
        named = set(re.findall(r"`(test_\w+)`", row[-1]))
        assert named and named <= existing, row


def test_every_message_is_in_the_source():
    source = text_under("src/farss").replace("{self.name}", "{name}")
    for what, messages, code, _ in ROWS:
        if messages.startswith("none: "):
            assert code == "0", what
            continue
        for message in messages.split("; "):
            if f'"{message}' not in source:
                assert messages in source, message  # the message itself holds a semicolon
