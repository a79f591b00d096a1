"""The messages of a conversation, in the forms that people write them, as chat templates take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from farss.errors import DataError
from farss.reading import loads

Message = dict[str, Any]

SHAREGPT_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "observation": "tool",
    "function_response": "tool",
}
"""What ShareGPT's `from` says, where it is not said as chat templates say it."""
CALL = "function_call"
"""ShareGPT's role of a turn that calls a tool."""

READ = {"role", "content", "from", "value", "weight", "train"}
"""Fields of a message that are read here."""
TEMPLATE_FIELDS = {"tool_calls", "tool_call_id", "name", "reasoning_content", "thinking", "reasoning"}
"""Fields of a message that are handed to the chat template."""
REFUSED = {
    "train_detail": "turns are learned whole or not at all",
    "function_call": "write it as `tool_calls`",
    "images": "only text is learned",
    "prefix": "write what the model is to learn as its content",
}
REASONING = ("reasoning_content", "thinking", "reasoning")


@dataclass(frozen=True)
class Turns:
    """Messages and which of them are learned.

    Attributes:
        messages: as a chat template takes them.
        learned: for each, whether it is the assistant's and no flag says otherwise.
        unused: fields of messages that nothing reads, as `messages[].NAME`.
        flagged: a flag keeps a turn of the assistant from being learned.
    """

    messages: tuple[Message, ...]
    learned: tuple[bool, ...]
    unused: tuple[str, ...]
    flagged: bool = False


def read_turns(value: object, name: str) -> Turns:
    """The turns of a list of messages.

    Args:
        value: what the row has.
        name: of the row's field, for messages.

    Raises:
        DataError: if it is no list of messages, or a message has what cannot be obeyed.
    """
    if isinstance(value, str) or not isinstance(value, (list, tuple)) or not value:
        raise _no_conversation(name, value)
    read = [_turn(turn, name) for turn in value]
    unused = dict.fromkeys(f"{name}[].{extra}" for _, _, extras in read for extra in extras)
    flagged = any(message["role"] == "assistant" and not learned for message, learned, _ in read)
    messages, learned = tuple(message for message, _, _ in read), tuple(learned for _, learned, _ in read)
    return Turns(messages, learned, tuple(unused), flagged)


def text_of(fields: Mapping[str, Any], name: str) -> str:
    """A field of a row that must be text.

    Raises:
        DataError: if it is not.
    """
    value = fields.get(name)
    if not isinstance(value, str):
        kinds = ", ".join(f"{key} ({type(value).__name__})" for key, value in fields.items())
        raise DataError("a row lacks a text field", expected=name, got=kinds or "no fields")
    return value


def is_empty(message: Message) -> bool:
    """Whether a turn says and calls nothing."""
    return not str(message.get("content") or "").strip() and not any(
        message.get(name) for name in ("tool_calls", *REASONING)
    )


def _turn(turn: object, name: str) -> tuple[Message, bool, list[str]]:
    if not isinstance(turn, Mapping):
        raise _no_conversation(name, turn)
    for refused, advice in REFUSED.items():
        if turn.get(refused) not in (None, [], "", False):
            raise DataError(
                "a message has a field that cannot be obeyed", expected=f"no `{refused}`", got=_seen(turn), do=advice
            )
    role = turn.get("role", turn.get("from"))
    if not isinstance(role, str) or not ("content" in turn or "value" in turn or turn.get("tool_calls")):
        raise _no_conversation(name, turn)
    content = _content(turn.get("content", turn.get("value")), turn)
    message: Message = {"role": SHAREGPT_ROLES.get(role, role) if "from" in turn else role, "content": content}
    if role == CALL:
        message = {"role": "assistant", "content": None, "tool_calls": _called(content)}
    message |= {key: value for key, value in turn.items() if key not in READ and value is not None}
    _require_calls(message.get("tool_calls"), turn)
    if message["content"] is None and not message.get("tool_calls"):
        raise DataError("a message has no content", expected="a text, or `tool_calls`", got=_seen(turn))
    extras = [key for key, value in turn.items() if key not in READ | TEMPLATE_FIELDS and value is not None]
    return message, _flag(turn, message["role"]), extras


def _require_calls(calls: object, turn: Mapping[str, Any]) -> None:
    """Refuse calls that name no function."""
    if not calls:
        return
    inner = [call.get("function", call) if isinstance(call, Mapping) else None for call in _listed(calls)]
    if not inner or not all(isinstance(call, Mapping) and isinstance(call.get("name"), str) for call in inner):
        raise DataError(
            "a tool call has no name",
            expected='tool_calls: [{"type": "function", "function": {"name": ..., "arguments": {...}}}]',
            got=_seen(turn),
        )


def _listed(value: object) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else []


def _content(value: object, turn: Mapping[str, Any]) -> str | None:
    """A message's text; parts of text are joined, which is what templates that take parts write."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list):
        texts = [part.get("text") if isinstance(part, Mapping) else None for part in value]
        typed = all(isinstance(part, Mapping) and part.get("type", "text") == "text" for part in value)
        if typed and all(isinstance(text, str) for text in texts):
            return "".join(text for text in texts if text)
        raise DataError(
            "a message has parts that are no text",
            expected='[{"type": "text", "text": ...}]',
            got=_seen(turn),
            do="only text is learned",
        )
    raise DataError("the content of a message is no text", expected="a text, or parts of text", got=_seen(turn))


def _called(content: str | None) -> list[dict[str, Any]]:
    """The calls that a turn of ShareGPT writes as JSON."""
    try:
        found = loads(content or "")
    except ValueError as error:
        raise DataError(
            "a function call is no JSON", expected='{"name": ..., "arguments": ...}', got=str(error)
        ) from None
    calls = found if isinstance(found, list) else [found]
    if not all(isinstance(call, dict) and "name" in call for call in calls):
        raise DataError("a function call has no name", expected='{"name": ..., "arguments": ...}', got=content)
    return [{"type": "function", "function": call} for call in calls]


def _flag(turn: Mapping[str, Any], role: str) -> bool:
    """Whether a message's own flags, `weight` and `train`, let it be learned.

    Raises:
        DataError: if a flag is neither yes nor no, or wants what the assistant did not say.
    """
    flags = []
    for name, allowed in (("weight", (0, 1)), ("train", (True, False))):
        value = turn.get(name)
        if value is None:
            continue
        if value not in allowed or isinstance(value, str):
            raise DataError(
                "a message has a flag that cannot be obeyed",
                expected=f"{name}: {allowed[0]} or {allowed[1]}",
                got=_seen(turn),
            )
        flags.append(bool(value))
    if role != "assistant":
        if any(flags):
            raise DataError(
                "only what the assistant says is learned", expected="no `train` or `weight` for others", got=_seen(turn)
            )
        return False
    return all(flags)


def _no_conversation(name: str, value: object) -> DataError:
    return DataError(
        f"`{name}` is no conversation",
        expected='[{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]',
        got=_seen(value),
    )


def _seen(value: object) -> str:
    text = str(dict(value) if isinstance(value, Mapping) else value)
    return text if len(text) <= 200 else f"{text[:200]}..."
