"""The date that a chat template writes: one for a whole run, whenever its stages are carried out.

Some templates (Llama 3.2's) write the day into the prompt. A training resumed on the next day, or measured after
midnight, would then read other prompts than the ones it began with.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from farss.errors import ConfigError

CLOCK = "strftime_now"
"""What transformers calls the function by which a template asks for the time."""
DIRECTIVES = tuple(f"%{letter}" for letter in ("-d", "-m", "-I", *"aAbBcdeDFHIjmMpRSTuUwWxXyY"))
"""What a day is written with; a template may ask for any of them."""
TEMPLATE_FILES = ("chat_template.jinja", "tokenizer_config.json", "chat_template.json")
LONGEST = 16 << 20


def day(text: str) -> date:
    """The day written as `2026-07-01`.

    Raises:
        ConfigError: if it is not one.
    """
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigError("a date is written as year, month and day", where="data.date", got=repr(text)) from None


def writes_date(files: list[Path]) -> bool:
    """Whether a chat template in one of these files, those that are there, asks for the time."""
    present = [file for file in files if file.is_file() and file.stat().st_size <= LONGEST]
    return any(CLOCK.encode() in file.read_bytes() for file in present)


def keep_date_(tokenizer: Any, text: str | None) -> Any:
    """Have the tokenizer's chat template write this day; None leaves it the present one. Returns the tokenizer.

    `published` gives it back as it was, for whoever saves it.
    """
    if text is not None:
        moment = day(text)
        tokenizer.farss_date, tokenizer.farss_template = moment, tokenizer.chat_template
        tokenizer.chat_template = _each(tokenizer.chat_template, lambda template: dated_template(template, moment))
    return tokenizer


def published(tokenizer: Any) -> Any:
    """The tokenizer with the chat template it came with."""
    if not hasattr(tokenizer, "farss_date"):
        return tokenizer
    copied = copy.copy(tokenizer)
    copied.chat_template = tokenizer.farss_template
    return copied


def dated_for(tokenizer: Any, template: str | None) -> str | None:
    """Another template for a tokenizer, writing the day that the tokenizer's own writes; None is its own."""
    moment = getattr(tokenizer, "farss_date", None)
    return template if template is None or moment is None else dated_template(template, moment)


def dated_template(template: str, moment: date) -> str:
    """A chat template whose questions for the time are all answered with one day.

    transformers gives templates no functions but its own, so the template is given a macro of the function's name.
    """
    if CLOCK not in template:
        return template
    written = "format"
    for directive in DIRECTIVES:
        written += f" | replace({directive!r}, {moment.strftime(directive)!r})"
    return f"{{%- macro {CLOCK}(format) -%}}{{{{ {written} }}}}{{%- endmacro -%}}\n{template}"


def _each(template: Any, change: Callable[[str], str]) -> Any:
    """A template, or every one of a tokenizer that has several by name; a tokenizer may have none."""
    if template is None:
        return None
    if isinstance(template, dict):
        return {name: change(text) for name, text in template.items()}
    return change(template)
