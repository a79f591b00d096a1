"""A chat template that writes the date writes one date for a whole run."""

from __future__ import annotations

import copy
from datetime import date

import pytest
from jinja2 import Environment

from farss.datasets.dates import dated_template, day, keep_date_, published, writes_date
from farss.datasets.formats import formatter
from farss.errors import ConfigError

TEMPLATE = (
    "Today is {{ strftime_now('%d %b %Y') }}.\n"
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
)
DAY = date(2024, 7, 1)
ROW = {"prompt": "What?", "completion": "That."}


@pytest.fixture
def dated(tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def test_the_day_that_is_kept_to_is_written(dated):
    assert "01 Jul 2024" not in formatter("mine", "chat", dated).prompt(ROW)
    assert "Today is 01 Jul 2024." in formatter("mine", "chat", keep_date_(dated, "2024-07-01")).prompt(ROW)


def test_a_saved_tokenizer_keeps_the_template_it_came_with(dated, tmp_path):
    published(keep_date_(dated, "2024-07-01")).save_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text() == TEMPLATE
    assert published(dated).chat_template == TEMPLATE and "01 Jul 2024" in formatter("mine", "chat", dated).prompt(ROW)


@pytest.mark.parametrize("wanted", ["%d %B %Y", "%Y-%m-%d", "%A, %-d. %b %y", "%H:%M"])
def test_a_day_is_written_as_python_writes_it(wanted):
    text = dated_template("{% if strftime_now is defined %}{{ strftime_now('" + wanted + "') }}{% endif %}", DAY)
    assert Environment().from_string(text).render() == DAY.strftime(wanted)


def test_none_is_the_present_day_as_ever(dated):
    assert "Today is " in formatter("mine", "chat", keep_date_(dated, None)).prompt(ROW)


@pytest.mark.parametrize("text", ["yesterday", "2024-13-01", "01.07.2024", ""])
def test_what_is_no_day_is_refused(text):
    with pytest.raises(ConfigError, match="year, month and day"):
        day(text)


def test_templates_that_ask_for_the_time_are_found_without_loading(dated, tiny_tokenizer, tmp_path):
    for name, tokenizer, writes in (("dated", dated, True), ("plain", tiny_tokenizer, False)):
        tokenizer.save_pretrained(tmp_path / name)
        files = [tmp_path / name / file for file in ("chat_template.jinja", "tokenizer_config.json", "none.json")]
        assert writes_date(files) is writes
