"""Rows to texts: how the rows of a data set are read, which final answer counts, and the template around them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from farss.config import TEMPLATES, Learn, Turns
from farss.datasets.chat import ChatTemplate
from farss.datasets.dates import dated_for
from farss.datasets.records import FIELDS, Record, Row, read_record
from farss.datasets.rendered import Rendered
from farss.datasets.templates import TEXT_TEMPLATES, whole
from farss.datasets.word_problems import ANSWER_PHRASE
from farss.errors import ConfigError, DataError, did_you_mean
from farss.printable import shortened
from farss.reading import MIB, Document

TEMPLATE_FILE = Document("template", ConfigError, most_bytes=MIB)

_CALCULATOR_MARK = re.compile(r"<<[^<>]*>>")
_GSM8K_FINAL = re.compile(r"^####\s*(.+?)\s*$", re.MULTILINE)
_FINAL = re.compile(re.escape(ANSWER_PHRASE) + r"\s*(.+?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class TaskFormat:
    """How the rows of one data set are read.

    Attributes:
        name: of the format, for messages.
        prepared: what is done with a row first: nothing, or for known sets the wording of their answers. Known sets
            have no white space around a question or an answer, and fields that are not read are no news.
        known: whether the set is one of those.
        columns: field of ours -> column of the row.
    """

    name: str
    prepared: Callable[[Row], Row] = dict
    known: bool = False
    columns: Mapping[str, str] = field(default_factory=dict)

    def record(self, row: Row) -> Record:
        """The row, understood.

        Raises:
            DataError: if it lacks a field, or has one that cannot be obeyed.
        """
        try:
            record = read_record(self.prepared(row), self.columns)
        except DataError as error:
            raise error if error.where else _placed(error, self.name) from None
        return replace(record, unused=()) if self.known else record

    def gold(self, row: Row) -> str | None:
        """The final answer that counts for exact match, or None if the row has none."""
        if row.get("final") is not None:
            return str(row["final"])
        return final_answer(self.record(row).answer)

    def question(self, row: Row) -> str:
        """What a row asks, by which rows are told apart: two rows with one question are one for this purpose."""
        return self.record(row).question


class Formatter:
    """A row's text in one template, and what of it is learned.

    Attributes:
        format: how rows are read.
        template: "plain", "alpaca", "none", "chat", or the path of a template file.
        turn_end: the text with which the chat template ends an answer ("<|im_end|>"), None where it is not known.
        after: what it writes behind an answer, white space with it.
    """

    def __init__(
        self,
        form: TaskFormat,
        template: str,
        tokenizer: Any = None,
        turns: Turns = "all",
        learn: Learn = "answers",
    ) -> None:
        self.format, self.template = form, template
        self._verbatim = template == "auto"
        self._chat: ChatTemplate | None = None
        if template not in TEXT_TEMPLATES and not self._verbatim:
            text = None if template == "chat" else template_text(template)
            called = None if text is None else f"data.template: {shortened(template)}"
            self._chat = ChatTemplate(tokenizer, dated_for(tokenizer, text), turns, called)
        self._turns, self._learn = turns, learn
        self.turn_end = self._chat.turn_end if self._chat is not None else None
        self.after = self._chat.after if self._chat is not None else None

    def __call__(self, row: Row) -> Rendered:
        """The row as text.

        Raises:
            DataError: if the row lacks a field, has nothing to learn, or does not go into the template.
        """
        return self.render(self.format.record(row))

    def render(self, record: Record) -> Rendered:
        """As a call, of a row that was read before."""
        try:
            rendered = self._rendered(record)
        except DataError as error:
            raise error if error.where else _placed(error, self.format.name) from None
        if not rendered.text.isascii():
            _require_characters(rendered.text, self.format.name)
        return rendered if self._learn == "answers" else _learned_whole(record, rendered, self.format.name)

    def prompt(self, row: Row) -> str:
        """The text before the last answer."""
        return self(row).prompt

    def _rendered(self, record: Record) -> Rendered:
        if record.text is not None:
            return whole(record)
        if self._chat is not None:
            return self._chat(record)
        template = self.template if not self._verbatim else "none" if record.verbatim and _is_bare(record) else "plain"
        rendered = TEXT_TEMPLATES[template](record)
        return replace(rendered, learned=rendered.learned[-1:]) if self._turns == "last" else rendered


def formatter(
    name: str,
    template: str = "auto",
    tokenizer: Any = None,
    *,
    turns: Turns = "all",
    learn: Learn = "answers",
    columns: Mapping[str, str] | None = None,
) -> Formatter:
    """The formatter of a data set's rows.

    Args:
        name: as in `load_rows`; a set without a format of its own is read by its fields.
        template: "chat", "plain", "alpaca", "none", or the path of a template file. "auto" is "chat" where the
            tokenizer has a chat template; else rows of `prompt` and `completion` are taken as they are ("none"), others
            "plain".
        tokenizer: a transformers tokenizer; needed for "chat", "auto" and a file.
        turns: which turns of the assistant are learned, "all" or the "last".
        learn: "everything" for the whole text, with what others say in it.
        columns: field of ours -> column of the rows, for columns of other names.

    Raises:
        ConfigError: if "chat" is asked for and the tokenizer has no chat template, or the template is neither a known
            name nor a file.
    """
    has_chat = bool(getattr(tokenizer, "chat_template", None))
    if template == "auto" and has_chat:
        template = "chat"
    if template == "chat" and not has_chat:
        raise ConfigError(
            "the tokenizer has no chat template",
            where="data.template",
            got=getattr(tokenizer, "name_or_path", None) or type(tokenizer).__name__,
            do="use `none`, `plain` or `alpaca`, or give a template file",
        )
    return Formatter(task_format(name, columns=columns), template, tokenizer, turns, learn)


def template_text(path: str) -> str:
    """The text of a template file, or what is given itself where it is the text of a template.

    Raises:
        ConfigError: if there is none, or it is no UTF-8 text.
    """
    if "{{" in path or "{%" in path:
        return path
    file = Path(path)
    if not os.path.isfile(file):  # a name that is too long is no file either
        raise ConfigError(
            "there is no such template",
            where="data.template",
            expected=f"{' | '.join(TEMPLATES)} | a chat template (Jinja), as a file or as text",
            got=path,
            do=did_you_mean(path, TEMPLATES),
        )
    return TEMPLATE_FILE.read_text(file)


def task_format(
    name: str, rows: Sequence[Row] | None = None, *, columns: Mapping[str, str] | None = None
) -> TaskFormat:
    """The format of a named data set, else the generic one, which reads each row by its fields.

    Args:
        name: as in `load_rows`; a file whose name is a known set's (`gsm8k.jsonl`) is still read by its fields.
        rows: if given, every row is checked now.
        columns: field of ours -> column of the rows; a known set is then read by its fields too.

    Raises:
        ConfigError: if a column is mapped to a field that is not read.
        DataError: naming the first row (from 1) that has not the needed fields, and the fields it has.
    """
    for field_of_ours in columns or {}:
        if field_of_ours not in FIELDS:
            raise ConfigError(
                "a column is mapped to a field that is not read",
                where="data.columns",
                expected=" | ".join(FIELDS),
                got=field_of_ours,
                do=did_you_mean(field_of_ours, FIELDS) or "the form is {field of farss: column of yours}",
            )
    form = TaskFormat(name, columns=columns) if columns else _NAMED.get(name) or TaskFormat(name)
    for number, row in enumerate(rows or (), start=1):
        try:
            form.record(row)
        except DataError as error:
            raise numbered(error, name, number) from None
    return form


def numbered(error: DataError, name: str, number: int) -> DataError:
    """The error of a row with the row's number in its set, and what can be done about one bad row among many."""
    placed = _placed(error, f"{name}, row {number}")
    do = error.do or "correct it, or have such rows left out and counted: --on-bad-row skip"
    return DataError(placed.what, where=placed.where, expected=placed.expected, got=placed.got, do=do)


def _placed(error: DataError, where: str) -> DataError:
    return DataError(error.what, where=where, expected=error.expected, got=error.got, do=error.do)


def _learned_whole(record: Record, rendered: Rendered, where: str) -> Rendered:
    """The same text, all of it learned.

    Raises:
        DataError: if the row itself says that a turn is not.
    """
    if record.flagged:
        raise DataError(
            "a row keeps a turn from being learned, and everything is to be",
            where=where,
            expected="no `train: false` or `weight: 0` where data.learn is everything",
            got=", ".join(message["role"] for message in record.messages),
            do="set data.learn: answers, or take the flags out of the rows",
        )
    return replace(rendered, learned=((0, len(rendered.text)),))


def _is_bare(record: Record) -> bool:
    """Whether a row is a question and its answer and no more."""
    return [message["role"] for message in record.messages] == ["user", "assistant"]


def _require_characters(text: str, where: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            "a row has half a character (a lone surrogate), which is no text",
            where=where,
            got=f"{text[error.start]!r} after {text[max(0, error.start - 40) : error.start]!r}",
            do="repair the row, or leave it out (data.on_bad_row: skip)",
        ) from None


def gsm8k_solution(answer: str) -> str:
    """A GSM8K solution without calculator marks, its last line `#### N` turned into `The answer is: N`."""
    return _GSM8K_FINAL.sub(lambda found: f"{ANSWER_PHRASE} {found[1]}", _CALCULATOR_MARK.sub("", answer))


def final_answer(text: str) -> str | None:
    """What follows the last `The answer is:` or `####` of a solution, without thousands separators; None without."""
    found = _FINAL.findall(text) or _GSM8K_FINAL.findall(text)
    if not found:
        return None
    return re.sub(r"(?<=\d),(?=\d{3})", "", found[-1]).rstrip(".")


def _trimmed(row: Row, asked: str, answered: str, worded: Callable[[str], str] = str) -> Row:
    """The two fields of a known set's row without white space around them, the answer in its wording."""
    question, answer = row.get(asked), row.get(answered)
    if isinstance(question, str) and isinstance(answer, str):
        return {**row, asked: question.strip(), answered: worded(answer).strip()}
    return row


def _pair(name: str, asked: str, answered: str, worded: Callable[[str], str] = str) -> TaskFormat:
    return TaskFormat(name, lambda row: _trimmed(row, asked, answered, worded), known=True)


_NAMED: dict[str, TaskFormat] = {
    "gsm8k": _pair("gsm8k", "question", "answer", gsm8k_solution),
    "word_problems": _pair("word_problems", "question", "answer"),
    "metamathqa": _pair("metamathqa", "query", "response"),
    "metamathqa_substitute": _pair("metamathqa_substitute", "query", "response"),
    "alpaca": TaskFormat("alpaca", known=True),
}
