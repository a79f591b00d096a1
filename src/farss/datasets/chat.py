"""A conversation in a chat template, and which of its characters are learned.

A template with generation marks says itself what the assistant writes. Of another, the answer begins where the prompt
that asks for it ends, and ends where the conversation up to it ends. Templates that render a turn differently once
others follow it (reasoning is dropped) have no such prefixes: there the answer is found as what changes with it, from
the words that ask for an answer to those that end a turn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

from jinja2 import TemplateError

from farss.bounded import OutOfBounds, bounded
from farss.config import Turns
from farss.datasets.calls import argument_forms, has_calls, quotes_arguments
from farss.datasets.records import Record, excerpt
from farss.datasets.rendered import Rendered, Span
from farss.datasets.turns import REASONING, Message, is_empty
from farss.errors import ConfigError, DataError
from farss.reading import loads

Found = TypeVar("Found")
_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
_PROBES = ("\u2e3bprobe\u2e3b", "\u2e3csonde\u2e3c")
"""Two texts that no conversation holds, put in the place of an answer to see where it is."""
OPENING = "<[({|"
"""Characters that begin a tag: two tags that begin alike have no more in common."""
SECONDS, SECONDS_OF_A_TURN, SECONDS_OF_A_CHARACTER, MEMORY = 5.0, 0.25, 1e-6, 2 << 30
"""Computing time and memory for a conversation, which is rendered once or oftener for each turn; ordinary ones take a
millisecond, one of 400 turns 4 s."""
LONGEST = 1 << 18
"""Characters of a template; the longest that models come with have a twelfth of it."""
_RENDERING = (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError)
"""What rendering raises when a template refuses a conversation, or cannot be given it."""


class ChatTemplate:
    """Conversations in the tokenizer's chat template, or in another one.

    Attributes:
        turn_end: the text with which the template ends an answer ("<|im_end|>"), None where it is not known.
        after: what it writes behind an answer, the white space around that end with it.

    Args:
        tokenizer: a transformers tokenizer.
        template: text of a template, used in place of the tokenizer's own.
        turns: which turns of the assistant are learned.
        called: what errors call the template; None is the tokenizer's name.

    Raises:
        ConfigError: if the template is longer than one can be, or takes more time or memory than one may.
    """

    def __init__(
        self, tokenizer: Any, template: str | None = None, turns: Turns = "all", called: str | None = None
    ) -> None:
        self._tokenizer, self._given = tokenizer, template
        self._turns: Turns = turns
        self._called = called or f"the chat template of {getattr(tokenizer, 'name_or_path', None) or 'the tokenizer'}"
        self._in_parts = False
        self._in_parts = self._bounded(self._takes_parts_alone)
        self.after = self._bounded(self._after_an_answer)
        self.turn_end = (self.after or "").strip() or None

    def __call__(self, record: Record) -> Rendered:
        """The conversation as text, its last turn of the assistant or all of them learned.

        Raises:
            DataError: if the template refuses the conversation or leaves a part of it out.
            ConfigError: if it takes more time or memory than it may.
        """
        characters = sum(len(message.get("content") or "") for message in record.messages)
        turns = len(record.messages)
        seconds = SECONDS + turns * (SECONDS_OF_A_TURN + characters * SECONDS_OF_A_CHARACTER)
        return self._bounded(lambda: self._rendered(record), seconds)

    def _bounded(self, work: Callable[[], Found], seconds: float | None = None) -> Found:
        """Render something; what does not come to an end is ended."""
        seconds = SECONDS if seconds is None else seconds
        try:
            with bounded(seconds, MEMORY):
                return work()
        except OutOfBounds as error:
            raise ConfigError(
                "the chat template takes more than a conversation may",
                where=self._called,
                expected=f"at most {seconds:g} s and {MEMORY >> 20:,} MiB",
                got=str(error),
                do="give another data.template",
            ) from None

    def _rendered(self, record: Record) -> Rendered:
        record = self._callable(record)
        text, marks = self._render(record, marked=True)
        self._require_complete(record, text)
        wanted = _wanted(record, self._turns)
        spans = self._unmarked(record, text, wanted) if marks is None else _marked(record, marks, wanted)
        spans = [(begin, end) for begin, end in spans if end > begin]
        if not spans:
            raise DataError(
                "nothing of the row is learned", expected="a turn of the assistant in the text", got=excerpt(text)
            )
        last = str(record.messages[-1].get("content") or "").strip()
        ends_itself = spans[-1][1] < len(text) or not last or not text.endswith(last)
        return Rendered(text, tuple(spans), opened=True, closed=ends_itself)

    def _callable(self, record: Record) -> Record:
        """The record with the arguments of its calls in the form that the template takes.

        Raises:
            DataError: if it takes none.
        """
        if not has_calls(record.messages):
            return record
        refusals = list[DataError]()
        for messages in argument_forms(record.messages):
            try:
                text, _ = self._render(record, messages)
            except DataError as error:
                refusals.append(error)
                continue
            if not quotes_arguments(messages, text):
                return replace(record, messages=messages)
        if refusals:
            raise refusals[0]
        raise DataError(
            "the chat template writes the arguments of a tool call as a string in quotes",
            expected="the arguments as an object",
            got=excerpt(record.messages),
            do="write the arguments of every call as a JSON object, or give another data.template",
        )

    def _render(
        self, record: Record, messages: Sequence[Message] | None = None, *, ask: bool = False, marked: bool = False
    ) -> tuple[str, list[Span] | None]:
        """The text, and the spans of its generation marks where they are asked for and the template has some."""
        from transformers.utils.chat_template_utils import render_jinja_template

        said = record.messages if messages is None else messages
        tools = [dict(tool) for tool in record.tools] or None
        try:
            template = self._template(tools)
            marked = marked and _MARKS.search(template) is not None
            texts, spans = render_jinja_template(
                conversations=[[self._as_taken(message) for message in said]],
                tools=cast("Any", tools),
                chat_template=template,
                return_assistant_tokens_mask=marked,
                add_generation_prompt=ask,
                **{**self._tokenizer.special_tokens_map, **record.options},
            )
        except _RENDERING as error:
            raise DataError(
                "the chat template refuses the row",
                expected="a conversation that the template takes",
                got=f"{type(error).__name__}: {excerpt(error)}; roles {', '.join(m['role'] for m in said)}",
                do="change or leave out the row (data.on_bad_row: skip), or give another data.template",
            ) from None
        return texts[0], cast("list[Span]", spans[0]) if marked else None

    def _template(self, tools: list[dict[str, Any]] | None) -> str:
        """The text of the template, of the tokenizer's the one for tools where they have one."""
        template = self._tokenizer.get_chat_template(self._given, tools)
        if len(template) > LONGEST:
            raise ConfigError(
                "the chat template is longer than one can be",
                where=self._called,
                expected=f"at most {LONGEST:,} characters",
                got=f"{len(template):,}",
                do="give another data.template",
            )
        return template

    def _as_taken(self, message: Message) -> Message:
        """A message as the template takes it: without what it has not, its text in parts if it reads nothing else."""
        taken = {name: value for name, value in message.items() if value is not None}
        if self._in_parts and isinstance(taken.get("content"), str):
            taken["content"] = [{"type": "text", "text": taken["content"]}]
        return taken

    def _require_complete(self, record: Record, text: str) -> None:
        """Refuse a template that leaves out what the row says: its meaning would be another one."""
        lost = [f"the text of a turn of `{m['role']}`" for m in record.messages if not _is_said(m, text)]
        if record.tools and self._render(Record(record.form, record.messages, options=record.options))[0] == text:
            lost.append("`tools`")
        for message in record.messages:
            names = [call.get("function", call).get("name") for call in message.get("tool_calls") or ()]
            lost += [f"a tool call of `{name}`" for name in names if str(name) not in text]
        if record.learned[-1] and any(not _holds(text, thought) for thought in _thoughts(record.messages[-1])):
            lost.append("the reasoning of the last answer, which is to be learned")
        if lost:
            raise DataError(
                "the chat template leaves out a part of the row",
                expected="a template that shows all of it",
                got=lost[0],
                do="use a model or a data.template that takes it, or leave the row out (data.on_bad_row: skip)",
            )

    def _unmarked(self, record: Record, text: str, wanted: Sequence[int]) -> list[Span]:
        return [(self._begin(record, text, turn), self._end(record, text, turn)) for turn in wanted]

    def _begin(self, record: Record, text: str, turn: int) -> int:
        before = record.messages[:turn]
        asked = self._render(record, before, ask=True)[0] if before else None
        if asked is not None and text.startswith(asked):
            return len(asked)
        start, _ = self._changing(record, text, turn)
        opening = "" if asked is None else asked[_shared(asked, self._render(record, before)[0]) :]
        found = text.rfind(opening, 0, start) if opening.strip() else -1
        if found >= 0:
            return found + len(opening)
        if asked is not None and turn == len(record.messages) - 1:
            return _shared(asked, text)
        return start

    def _end(self, record: Record, text: str, turn: int) -> int:
        if turn == len(record.messages) - 1:
            return len(text)
        upto = self._render(record, record.messages[: turn + 1])[0]
        if text.startswith(upto):
            return len(upto)
        _, stop = self._changing(record, text, turn)
        ends = [end for end in (self.after, self.turn_end) if end and text.startswith(end, stop)]
        # A template that closes the whole text writes a turn's end and then more; what both have is the turn's end.
        common = text[stop : stop + _shared(self.after or "", text[stop:])].rstrip(OPENING)
        return stop + len(ends[0] if ends else common)

    def _changing(self, record: Record, text: str, turn: int) -> Span:
        """The part of the text that changes with the words of one turn."""
        others = []
        for probe in _PROBES:
            messages = [dict(message) for message in record.messages]
            messages[turn] = {"role": messages[turn]["role"], "content": probe}
            others.append(self._render(record, messages)[0])
        start = min(_shared(text, other) for other in others)
        tail = min(_shared(text[::-1], other[::-1]) for other in others)
        return start, max(start, len(text) - tail)

    def _takes_parts_alone(self) -> bool:
        """Whether the template writes an answer only if it comes as a list of parts, as some of vision models do."""
        if _PROBES[0] in self._sample():
            return False
        self._in_parts = True
        return _PROBES[0] in self._sample()

    def _after_an_answer(self) -> str | None:
        """What the template writes right after an answer, found by rendering one; None where it refuses the example."""
        _, found, end = self._sample().rpartition(_PROBES[0])
        return end or None if found else None

    def _sample(self) -> str:
        """A short conversation with a probe for an answer, rendered; nothing where the template refuses it."""
        said = ({"role": "user", "content": "Hello"}, {"role": "assistant", "content": _PROBES[0]})
        try:
            return self._render(Record("sample", said, (False, True)))[0]
        except DataError:
            return ""


def _shared(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _wanted(record: Record, turns: Turns) -> list[int]:
    """The messages that are learned.

    Raises:
        DataError: if none is, or one of them is empty.
    """
    of_assistant = [i for i, message in enumerate(record.messages) if message["role"] == "assistant"]
    chosen = of_assistant[-1:] if turns == "last" else of_assistant
    wanted = [i for i in chosen if record.learned[i]]
    if not wanted:
        raise DataError("nothing of the row is learned", expected="a turn of the assistant without `train: false`")
    if any(is_empty(record.messages[i]) for i in wanted):
        raise DataError("a row has an empty response", got=excerpt(record.messages))
    return wanted


def _marked(record: Record, marks: Sequence[Span], wanted: Sequence[int]) -> list[Span]:
    """The marked spans of the turns that are learned; every turn of the assistant has one mark, or all are wanted."""
    of_assistant = [i for i, message in enumerate(record.messages) if message["role"] == "assistant"]
    if len(marks) == len(of_assistant):
        return [span for span, turn in zip(marks, of_assistant, strict=True) if turn in wanted]
    if list(wanted) == of_assistant:
        return list(marks)
    raise DataError(
        "the generation marks of the chat template do not tell the turns apart",
        expected=f"{len(of_assistant)} marks, one for each turn of the assistant",
        got=len(marks),
        do="use data.turns: all, without flags in messages",
    )


def _is_said(message: Message, text: str) -> bool:
    """Whether a message's words are in the text, as they are, trimmed, without reasoning, or escaped in JSON."""
    content = message.get("content")
    if not content or not content.strip():
        return True
    said = (content.strip(), content.rpartition("</think>")[2].strip())
    return any(_holds(text, words) for words in said) or (message["role"] == "tool" and _is_json(content))


def _holds(text: str, words: str) -> bool:
    """Whether words are in a text, as they are or escaped in JSON."""
    return words in text or any(json.dumps(words, ensure_ascii=only)[1:-1] in text for only in (False, True))


def _thoughts(message: Message) -> Iterator[str]:
    """What a turn of the assistant reasons before it answers, in its content or in a field beside it."""
    before, closed, _ = str(message.get("content") or "").rpartition("</think>")
    if closed:
        yield before.rpartition("<think>")[2].strip()
    yield from (message[name].strip() for name in REASONING if isinstance(message.get(name), str))


def _is_json(text: str) -> bool:
    try:
        loads(text)
    except ValueError:
        return False
    return True
