"""The page of models says what is so: every row of its table is tried again."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.families import FAMILIES, SEEING
from tests.interop.family_table import row, table

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
SAMPLE = ("Gemma 3 with vision", "Qwen3.5 with vision", "Mixtral", "Falcon", "GPT-NeoX (Pythia)")


def test_every_family_has_its_row_and_no_other():
    rows = [line.split(" | ")[0].strip("| ") for line in PAGE.splitlines() if line.startswith("| ")]
    assert rows[2 : 2 + len(FAMILIES)] == list(FAMILIES)


@pytest.mark.case("models with images are initialised by both engines, and every export works on the whole model")
@pytest.mark.parametrize(
    "family", [name if name in SAMPLE else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
@pytest.mark.filterwarnings("ignore")
def test_the_row_of_the_page_is_what_is_found(family, tiny_tokenizer, tmp_path):
    found = row(family, tmp_path, tiny_tokenizer)
    assert table([found]).splitlines()[-1] in PAGE.splitlines()
    if family in SEEING:
        assert found[3:] == ["yes"] * 6
