"""A row to a record: a conversation with its tools and what of it is learned, or a text, whatever fields are called.

A row is read by the first of these that it has: `messages`, `conversations` (ShareGPT), a prompt and its answer (texts,
or lists of messages), `text`. Fields that change the meaning and cannot be obeyed are refused; others that are not used
are named in the record.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from farss.datasets.turns import Message, Turns, read_turns, text_of
from farss.errors import DataError, near_names
from farss.reading import loads

Row = Mapping[str, Any]

FIELD_PAIRS = (
    ("prompt", "completion"),
    ("instruction", "output"),
    ("question", "answer"),
    ("query", "response"),
    ("input", "output"),
)
"""Fields that make a row a prompt and its answer, tried in this order, before other pairs of one of each."""
ASKED = ("prompt", "instruction", "question", "query")
ANSWERED = ("completion", "output", "answer", "response")
CONVERSATIONS = ("messages", "conversations", "conversation")
WHOLE = "text"
BESIDE = ("input", "system", "history", "tools", "chat_template_kwargs", "weight", "final")
"""Fields that are obeyed beside those that make the form (`final` is the answer that counts, for scoring)."""
FIELDS = (*CONVERSATIONS, *ASKED, *ANSWERED, WHOLE, *BESIDE)
"""Every field that can be read, and so that a column can be mapped to."""

PREFERENCES = (
    "preferences are learned by TRL: in Python `model = farss.apply(model, plan)`, then "
    "`trl.DPOTrainer(model=model, ...)`, or the trainer of KTO, GRPO or RLOO (docs/rows.md, Preferences)"
)
REWARDS = f"prompts alone are for learning of rewards, which TRL does like this: {PREFERENCES}"
REFUSED = {
    "chosen": PREFERENCES,
    "rejected": PREFERENCES,
    "kto_tag": PREFERENCES,
    "completions": "make a row of every completion that is to be learned",
    "input_ids": "rows of token ids are not read: give the text, or batches to `farss.plan` in Python",
    "labels": "rows of token ids are not read: give the text, or batches to `farss.plan` in Python",
    "images": "only text is learned: leave such rows out",
    "image": "only text is learned: leave such rows out",
    "videos": "only text is learned: leave such rows out",
    "audios": "only text is learned: leave such rows out",
    "audio": "only text is learned: leave such rows out",
    "functions": "write them as `tools`, the calls as `tool_calls`",
    "function_call": "write it as `tool_calls` of the message",
    "documents": "put their text into the messages",
    "mask": "say it turn by turn: `train: false` in a message",
}
"""Fields whose neglect would teach something else than the row says, with what to do."""


@dataclass(frozen=True)
class Record:
    """One row, understood.

    Attributes:
        form: the fields it was read by, for people.
        messages: the conversation as a chat template takes it; none for a text.
        learned: for each message, whether it is learned where the setting `data.turns` lets it.
        text: the text of a row of plain language modelling, all of it learned.
        verbatim: prompt and answer are texts that follow each other, not two turns of a chat by nature.
        instruction: instruction and input of the last question, apart, where the row has them so.
        tools: descriptions of the tools.
        options: what else the chat template is rendered with.
        flagged: the row itself keeps a turn of the assistant from being learned.
        unused: fields of the row, and of its messages, that nothing reads.
    """

    form: str
    messages: tuple[Message, ...] = ()
    learned: tuple[bool, ...] = ()
    text: str | None = None
    verbatim: bool = False
    instruction: tuple[str, str] | None = None
    tools: tuple[dict[str, Any], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    flagged: bool = False
    unused: tuple[str, ...] = ()

    @property
    def answer(self) -> str:
        """The text of the last assistant turn; the whole of a text."""
        if self.text is not None:
            return self.text
        return next((str(m.get("content") or "") for m in reversed(self.messages) if m["role"] == "assistant"), "")

    @property
    def question(self) -> str:
        """What tells a row from others: all that comes before its last assistant turn, or a text itself, as JSON."""
        if self.text is not None:
            return json.dumps(self.text, ensure_ascii=False)
        last = max(i for i, message in enumerate(self.messages) if message["role"] == "assistant")
        before = [{"role": m["role"], "content": str(m.get("content") or "").strip()} for m in self.messages[:last]]
        return json.dumps(before, sort_keys=True, ensure_ascii=False)


def read_record(row: Row, columns: Mapping[str, str] | None = None) -> Record:
    """The record of a row.

    Args:
        row: its fields.
        columns: field of ours -> column of the row, for columns of other names.

    Raises:
        DataError: if the row lacks what is needed, or has what cannot be obeyed; what is wrong and what it has.
    """
    fields = dict(row) if not columns else _mapped(row, columns)
    _refuse_unobeyable(fields)
    for name in CONVERSATIONS:
        if fields.get(name) is not None:
            return _conversation(fields, name)
    pair = _pair(fields)
    if pair is not None:
        return _exchange(fields, *pair)
    if fields.get(WHOLE) is not None:
        return _whole(fields)
    raise _formless(row)


def _mapped(row: Row, columns: Mapping[str, str]) -> dict[str, Any]:
    missing = [column for column in columns.values() if column not in row]
    if missing:
        raise DataError(
            "a row lacks a column that is mapped",
            expected=", ".join(columns.values()),
            got=described(row),
            do="check data.columns, which is {field of farss: column of yours}",
        )
    makes_forms = {*CONVERSATIONS, *ASKED, *ANSWERED, WHOLE}
    rest = {name: value for name, value in row.items() if name not in columns.values() and name not in makes_forms}
    return rest | {ours: row[theirs] for ours, theirs in columns.items()}


def _refuse_unobeyable(fields: Row) -> None:
    for name, advice in REFUSED.items():
        if fields.get(name) not in (None, [], "", {}):
            raise DataError(
                "a row has a field that cannot be obeyed", expected=f"no `{name}`", got=described(fields), do=advice
            )
    if isinstance(fields.get("label"), bool) and any(name in fields for name in (*CONVERSATIONS, *ASKED)):
        raise DataError(
            "a row has a field that cannot be obeyed",
            expected="no `label` of yes or no beside an answer",
            got=described(fields),
            do=f"leave the column out to learn every answer; {PREFERENCES}",
        )
    if fields.get("weight") not in (None, 1, 1.0):
        raise DataError(
            "a row has a field that cannot be obeyed",
            expected="weight 1, or none: every row counts alike",
            got=f"weight {fields['weight']!r}",
            do="leave the row out, or set `weight: 0` in single messages",
        )


def _conversation(fields: dict[str, Any], name: str) -> Record:
    turns = read_turns(fields[name], name)
    return _record(fields, name, turns, {name})


def _pair(fields: dict[str, Any]) -> tuple[str, str] | None:
    for asked, answered in FIELD_PAIRS:
        if fields.get(asked) is not None and answered in fields:
            return asked, answered
    asked, answered = ([name for name in names if fields.get(name) is not None] for names in (ASKED, ANSWERED))
    return (asked[0], answered[0]) if len(asked) == len(answered) == 1 else None


def _exchange(fields: dict[str, Any], asked: str, answered: str) -> Record:
    form = f"{asked}, {answered}"
    if isinstance(fields[asked], list) or isinstance(fields[answered], list):
        before, after = read_turns(fields[asked], asked), read_turns(fields[answered], answered)
        turns = Turns(
            before.messages + after.messages,
            tuple(False for _ in before.messages) + after.learned,
            before.unused + after.unused,
            before.flagged or after.flagged,
        )
        return _record(fields, form, turns, {asked, answered})
    question, answer, used = text_of(fields, asked), text_of(fields, answered), {asked, answered}
    given = ""
    if asked == "instruction" and fields.get("input") is not None:
        given = text_of(fields, "input")
        used.add("input")
    earlier = _history(fields.get("history"))
    content = f"{question}\n\n{given}" if given else question
    messages = (*earlier.messages, {"role": "user", "content": content}, {"role": "assistant", "content": answer})
    turns = Turns(messages, (*earlier.learned, False, True), earlier.unused, earlier.flagged)
    apart = (question, given) if asked == "instruction" else None
    verbatim = (asked, answered) == FIELD_PAIRS[0]
    return _record(fields, form, turns, used | {"history"}, verbatim=verbatim, instruction=apart)


def _whole(fields: dict[str, Any]) -> Record:
    text = text_of(fields, WHOLE)
    for name in ("system", "tools", "history"):
        if fields.get(name):
            raise DataError(
                "a text has no turns to put a field into", expected=f"`text` without `{name}`", got=described(fields)
            )
    return Record(WHOLE, text=text, unused=_unused(fields, {WHOLE}))


def _record(fields: dict[str, Any], form: str, turns: Turns, used: set[str], **more: Any) -> Record:
    messages, learned = turns.messages, turns.learned
    if fields.get("system") not in (None, ""):
        system = text_of(fields, "system")
        if messages[0]["role"] == "system" and messages[0].get("content") != system:
            raise DataError(
                "a row has two system texts", expected="one, in `system` or as the first message", got=system
            )
        if messages[0]["role"] != "system":
            messages, learned = ({"role": "system", "content": system}, *messages), (False, *learned)
    if not any(message["role"] == "assistant" for message in messages):
        raise DataError("a conversation has no turn of the assistant", expected="at least one", got=_roles(messages))
    unused = (*_unused(fields, used | {"system", "tools", "chat_template_kwargs", "weight", "final"}), *turns.unused)
    return Record(
        form,
        messages,
        learned,
        tools=_tools(fields.get("tools")),
        options=_options(fields),
        flagged=turns.flagged,
        unused=unused,
        **more,
    )


def _history(value: object) -> Turns:
    """Earlier exchanges: pairs of question and answer, or messages."""
    if value in (None, [], ""):
        return Turns((), (), ())
    if isinstance(value, list) and all(isinstance(pair, Mapping) for pair in value):
        return read_turns(value, "history")
    good = isinstance(value, list) and all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
        for pair in value
    )
    if not good:
        raise DataError(
            "`history` is no list of exchanges", expected='[["question", "answer"], ...]', got=excerpt(value)
        )
    roles = ("user", "assistant")
    pairs = cast("list[list[str]]", value)
    messages = tuple({"role": role, "content": text} for pair in pairs for role, text in zip(roles, pair, strict=True))
    return Turns(messages, tuple(message["role"] == "assistant" for message in messages), ())


def _tools(value: object) -> tuple[dict[str, Any], ...]:
    if isinstance(value, str) and value.strip():
        try:
            value = loads(value)
        except ValueError as error:
            raise DataError("`tools` is a text that is no JSON", expected="a list of tools", got=str(error)) from None
    if value in (None, [], ""):
        return ()
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise DataError(
            "`tools` is no list of descriptions", expected='[{"type": "function", ...}]', got=excerpt(value)
        )
    return tuple(value)


def _options(fields: Row) -> dict[str, Any]:
    options = fields.get("chat_template_kwargs") or {}
    if not isinstance(options, dict) or not all(isinstance(name, str) for name in options):
        raise DataError("`chat_template_kwargs` is no mapping of names", expected="{name: value}", got=excerpt(options))
    return {name: value for name, value in options.items() if value is not None}


def _unused(fields: Row, used: set[str]) -> tuple[str, ...]:
    return tuple(name for name, value in fields.items() if name not in used and value is not None)


def _roles(messages: tuple[Message, ...]) -> str:
    return ", ".join(message["role"] for message in messages)


def _formless(row: Row) -> DataError:
    """The refusal of a row with fields of other names, with the mapping that would probably read it."""
    pairs = " | ".join(f"({asked}, {answered})" for asked, answered in FIELD_PAIRS)
    guesses = {ours: theirs for theirs in row for ours in near_names(theirs, (*ASKED, *ANSWERED), most=1)}
    texts = [name for name, value in row.items() if isinstance(value, str)]
    asked, answered = ([name for name in guesses if name in names] for names in (ASKED, ANSWERED))
    if asked and answered:
        columns = f"{asked[0]}={guesses[asked[0]]},{answered[0]}={guesses[answered[0]]}"
    elif len(texts) == 2:
        columns = f"prompt={texts[0]},completion={texts[1]}"
    else:
        columns = "prompt=COLUMN,completion=COLUMN"
    alone = any(name in row for name in ASKED) and not answered and len(texts) == 1
    return DataError(
        "a row has no prompt and response",
        expected=f"messages | conversations | {pairs} | text",
        got=described(row),
        do=f"say which column is which: --columns {columns}" + (f"; {REWARDS}" if alone else ""),
    )


def described(row: Row) -> str:
    """The fields of a row with their types, for messages."""
    return ", ".join(f"{key} ({type(value).__name__})" for key, value in row.items())[:400] or "no fields"


def excerpt(value: object) -> str:
    """The beginning of a value, for messages."""
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
