"""Rows to texts: what is asked, what is answered, which final answer counts, and the template around them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from farss.config import Template
from farss.datasets.word_problems import ANSWER_PHRASE
from farss.errors import ConfigError, DataError

Row = Mapping[str, Any]
Message = dict[str, str]

FIELD_PAIRS = (("prompt", "completion"), ("instruction", "output"), ("question", "answer"), ("query", "response"))
"""Fields that make a row a prompt and its response, tried in this order; `messages` comes before them."""

PLAIN = "Question: {}\nAnswer:"
ALPACA = "Here is a task. Write a response that carries it out.\n\n### Instruction:\n{}\n\n### Response:\n"

_CALCULATOR_MARK = re.compile(r"<<[^<>]*>>")
_GSM8K_FINAL = re.compile(r"^####\s*(.+?)\s*$", re.MULTILINE)
_FINAL = re.compile(re.escape(ANSWER_PHRASE) + r"\s*(.+?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class TaskFormat:
    """How the rows of one data set are read.

    Attributes:
        name: of the format, for messages.
        prompt: row -> what is asked, without template.
        response: row -> what the model should answer, without template or end token.
        gold: row -> the final answer that counts for exact match, or None if the row has none.
        messages: row -> the conversation up to the response, in a chat template's form.
    """

    name: str
    prompt: Callable[[Row], str]
    response: Callable[[Row], str]
    gold: Callable[[Row], str | None]
    messages: Callable[[Row], list[Message]]


class Formatter:
    """A row's prompt text and response text in one template.

    Prompt + response is the full text; the response begins with the space that belongs between them, if any.

    Attributes:
        format: how rows are read.
        template: "plain", "alpaca" or "chat" ("auto" is decided before).
        adds_special_tokens: whether the tokenizer should add its own special tokens to the prompt; False for "chat",
            whose text already holds them (a second BOS changes what some models answer).
        turn_end: the text with which the chat template ends an answer ("<|im_end|>"), None where it is not known.
    """

    def __init__(self, form: TaskFormat, template: Literal["plain", "alpaca", "chat"], tokenizer: Any = None) -> None:
        self.format = form
        self.template = template
        self.adds_special_tokens = template != "chat"
        self._tokenizer = tokenizer
        self.turn_end = _turn_end(tokenizer) if template == "chat" else None

    def __call__(self, row: Row) -> tuple[str, str]:
        """The (prompt, response) texts of a row.

        Raises:
            DataError: if the row lacks a field or has an empty response.
        """
        response = self.format.response(row).strip()
        if not response:
            raise DataError("a row has an empty response", where=self.format.name, got=_excerpt(row))
        return self.prompt(row), f" {response}" if self.template == "plain" else response

    def prompt(self, row: Row) -> str:
        """The prompt text alone, for generation."""
        if self.template == "chat":
            messages = self.format.messages(row)
            return self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return (PLAIN if self.template == "plain" else ALPACA).format(self.format.prompt(row).strip())


def formatter(name: str, template: Template = "auto", tokenizer: Any = None) -> Formatter:
    """The formatter of a data set's rows.

    Args:
        name: as in `load_rows`; a set without a format of its own is read by its fields.
        template: "auto" is "chat" where the tokenizer has a chat template, else "plain".
        tokenizer: a transformers tokenizer; needed for "chat" and "auto".

    Raises:
        ConfigError: if "chat" is asked for and the tokenizer has no chat template.
    """
    has_chat = bool(getattr(tokenizer, "chat_template", None))
    if template == "auto":
        template = "chat" if has_chat else "plain"
    if template == "chat" and not has_chat:
        raise ConfigError(
            "the tokenizer has no chat template",
            where="data.template",
            got=getattr(tokenizer, "name_or_path", None) or type(tokenizer).__name__,
            do="use `plain` or `alpaca`",
        )
    return Formatter(task_format(name), template, tokenizer)


def task_format(name: str, rows: Sequence[Row] | None = None) -> TaskFormat:
    """The format of a named data set, else the generic one, which reads each row by its fields.

    Args:
        name: as in `load_rows`; a file whose name is a known set's (`gsm8k.jsonl`) is still read by its fields.
        rows: if given, every row is checked now.

    Raises:
        DataError: naming the first row (from 1) that has not the needed fields, and the fields it has.
    """
    form = _NAMED.get(name) or _generic(name)
    for number, row in enumerate(rows or (), start=1):
        try:
            form.messages(row)
            form.response(row)
        except DataError as error:
            raise DataError(error.what, where=f"{name}, row {number}", expected=error.expected, got=error.got) from None
    return form


def gsm8k_solution(answer: str) -> str:
    """A GSM8K solution without calculator marks, its last line `#### N` turned into `The answer is: N`."""
    return _GSM8K_FINAL.sub(lambda found: f"{ANSWER_PHRASE} {found[1]}", _CALCULATOR_MARK.sub("", answer))


def final_answer(text: str) -> str | None:
    """What follows the last `The answer is:` or `####` of a solution, without thousands separators; None without."""
    found = _FINAL.findall(text) or _GSM8K_FINAL.findall(text)
    if not found:
        return None
    return re.sub(r"(?<=\d),(?=\d{3})", "", found[-1]).rstrip(".")


def _field(row: Row, name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise DataError("a row lacks a text field", where=where, expected=name, got=_fields(row))
    return value


def _fields(row: Row) -> str:
    return ", ".join(f"{key} ({type(value).__name__})" for key, value in row.items()) or "no fields"


def _excerpt(row: Row) -> str:
    text = str(dict(row))
    return text if len(text) <= 200 else f"{text[:200]}..."


def _form(
    name: str,
    prompt: Callable[[Row], str],
    response: Callable[[Row], str],
    gold: Callable[[Row], str | None] | None = None,
    messages: Callable[[Row], list[Message]] | None = None,
) -> TaskFormat:
    return TaskFormat(
        name,
        prompt,
        response,
        gold or (lambda row: final_answer(response(row))),
        messages or (lambda row: [{"role": "user", "content": prompt(row).strip()}]),
    )


def _pair(name: str, asked: str, answered: str) -> TaskFormat:
    return _form(name, lambda row: _field(row, asked, name), lambda row: _field(row, answered, name))


def _instruction(row: Row, name: str) -> str:
    instruction, given = _field(row, "instruction", name), row.get("input") or ""
    return f"{instruction}\n\n{given}" if given else instruction


def _alpaca(name: str) -> TaskFormat:
    return _form(name, lambda row: _instruction(row, name), lambda row: _field(row, "output", name))


def _generic(name: str) -> TaskFormat:
    def reader(row: Row) -> TaskFormat:
        if "messages" in row:
            return _conversation(name)
        for asked, answered in FIELD_PAIRS:
            if asked in row and answered in row:
                return _alpaca(name) if asked == "instruction" else _pair(name, asked, answered)
        pairs = " | ".join(f"({asked}, {answered})" for asked, answered in FIELD_PAIRS)
        raise DataError(
            "a row has no prompt and response", where=name, expected=f"messages | {pairs}", got=_fields(row)
        )

    def gold(row: Row) -> str | None:
        return str(row["final"]) if row.get("final") is not None else reader(row).gold(row)

    return TaskFormat(
        name,
        lambda row: reader(row).prompt(row),
        lambda row: reader(row).response(row),
        gold,
        lambda row: reader(row).messages(row),
    )


def _conversation(name: str) -> TaskFormat:
    def turns(row: Row) -> list[Message]:
        messages = row["messages"]
        good = isinstance(messages, list) and all(
            isinstance(turn, Mapping) and isinstance(turn.get("content"), str) and isinstance(turn.get("role"), str)
            for turn in messages
        )
        if not good or len(messages) < 2 or messages[-1]["role"] != "assistant":
            raise DataError(
                "`messages` is no conversation that ends with the assistant",
                where=name,
                expected='[{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]',
                got=_excerpt(row),
            )
        return [{"role": turn["role"], "content": turn["content"]} for turn in messages]

    def prompt(row: Row) -> str:
        before = turns(row)[:-1]
        if any(turn["role"] == "assistant" for turn in before):
            raise DataError(
                "a conversation of several turns needs a chat template",
                where=name,
                got=f"{len(before) + 1} messages",
                do="use the template `chat` with a model that has one",
            )
        return "\n\n".join(turn["content"] for turn in before)

    return _form(name, prompt, lambda row: turns(row)[-1]["content"], messages=lambda row: turns(row)[:-1])


def _turn_end(tokenizer: Any) -> str | None:
    """What the chat template writes right after an answer, found by rendering one."""
    asked, answer = {"role": "user", "content": "Hello"}, "Good-morning-to-you"
    text = tokenizer.apply_chat_template([asked, {"role": "assistant", "content": answer}], tokenize=False)
    _, found, end = text.rpartition(answer)
    return end.strip() or None if found else None


def _gsm8k(name: str) -> TaskFormat:
    return _form(
        name, lambda row: _field(row, "question", name), lambda row: gsm8k_solution(_field(row, "answer", name))
    )


_NAMED: dict[str, TaskFormat] = {
    "gsm8k": _gsm8k("gsm8k"),
    "word_problems": _pair("word_problems", "question", "answer"),
    "metamathqa": _pair("metamathqa", "query", "response"),
    "metamathqa_substitute": _pair("metamathqa_substitute", "query", "response"),
    "alpaca": _alpaca("alpaca"),
}
