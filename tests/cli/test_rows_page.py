"""The page of rows says what is so: its settings, flags and fields exist, and nothing that can be said is missing."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from farss.cli.options import FLAGS
from farss.config import Recipe
from farss.data_settings import DataConfig
from farss.datasets.records import FIELDS
from farss.datasets.records import REFUSED as REFUSED_FIELDS
from farss.datasets.turns import READ, TEMPLATE_FIELDS
from farss.errors import ConfigError

PAGE = (Path(__file__).parents[2] / "docs" / "rows.md").read_text(encoding="utf-8")
SAID = PAGE[PAGE.index("## What can be said") :]
TABLES = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in SAID.splitlines()
    if line.startswith("| ") and line != "| what | how |" and not line.startswith("| in ")
]
HOW = [row for row in TABLES if not row[0].startswith("`")]
OF_CALIBRATION = {"calibration_rows", "calibration_order", "knowledge_calibration"}
"""Settings that are a matter of the method, not of what is learned."""


@pytest.mark.case("what can be said about data")
@pytest.mark.parametrize("row", HOW, ids=[what for what, _ in HOW])
def test_what_can_be_said_is_a_setting_a_flag_or_a_field_and_what_cannot_is_refused(row):
    _, how = row
    settings = {field.name for field in dataclasses.fields(DataConfig)}
    named = re.findall(r"`data\.(\w+)`", how)
    assert set(named) <= settings
    for flag in re.findall(r"`(--[\w-]+)`", how):
        assert FLAGS[flag][0].removeprefix("data.") in named
    bare = re.findall(r"`(\w+)`", how.replace("`/`", "` `"))
    if how.startswith("refused"):
        assert bare and all(name in {*DataConfig.REFUSED, *REFUSED_FIELDS} for name in bare)
    else:
        assert all(name in {*FIELDS, *READ, *TEMPLATE_FIELDS} for name in bare)
        assert named or bare


@pytest.mark.case("what can be said about data")
def test_every_setting_of_the_data_is_on_the_page():
    named = set(re.findall(r"`data\.(\w+)`", SAID))
    assert named == {field.name for field in dataclasses.fields(DataConfig)} - OF_CALIBRATION
    of_rows = {flag for flag, (key, *_) in FLAGS.items() if key.startswith("data.")}
    of_rows -= {flag for flag in of_rows if FLAGS[flag][0].removeprefix("data.") in OF_CALIBRATION}
    assert of_rows <= set(re.findall(r"`(--[\w-]+)`", SAID))


@pytest.mark.case("what can be said about data")
@pytest.mark.parametrize("name", DataConfig.REFUSED)
def test_names_of_other_tools_are_refused_with_what_the_page_says(name):
    said = {key.strip("`"): how for key, how in TABLES if key.startswith("`")}
    assert said.keys() == DataConfig.REFUSED.keys()
    with pytest.raises(ConfigError, match="is not a setting here") as refused:
        Recipe().override({f"data.{name}": 1})
    assert said[name] in str(refused.value)
    for setting in re.findall(r"data\.(\w+)", said[name]):
        assert setting in {field.name for field in dataclasses.fields(DataConfig)}
