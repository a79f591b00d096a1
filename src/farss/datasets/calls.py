"""Arguments of tool calls: rows have them as objects or as JSON text, and a chat template takes one of the two."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from farss.datasets.turns import Message
from farss.reading import loads


def argument_forms(messages: Sequence[Message]) -> Iterator[tuple[Message, ...]]:
    """The same messages with the arguments of their calls as given, then as objects, then as JSON text."""
    yield tuple(messages)
    for convert in (_as_object, _as_text):
        yield tuple(_converted(message, convert) for message in messages)


def has_calls(messages: Sequence[Message]) -> bool:
    """Whether a message calls a tool."""
    return any(message.get("tool_calls") for message in messages)


def quotes_arguments(messages: Sequence[Message], text: str) -> bool:
    """Whether arguments that are JSON already stand in the text as a quoted string of JSON: no caller writes so."""
    given = [call.get("arguments") for call in _calls(messages)]
    ready = [each for each in given if isinstance(each, str) and isinstance(_parsed(each), (dict, list))]
    return any(json.dumps(each, ensure_ascii=only) in text for each in ready for only in (False, True))


def _calls(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [call.get("function", call) for message in messages for call in message.get("tool_calls") or ()]


def _converted(message: Message, convert: Callable[[Any], Any]) -> Message:
    calls = message.get("tool_calls")
    if not calls:
        return message
    return {**message, "tool_calls": [_call(call, convert) for call in calls]}


def _call(call: dict[str, Any], convert: Callable[[Any], Any]) -> dict[str, Any]:
    if "function" in call:
        return {**call, "function": _call(call["function"], convert)}
    return {**call, "arguments": convert(call["arguments"])} if "arguments" in call else call


def _as_object(arguments: Any) -> Any:
    found = _parsed(arguments) if isinstance(arguments, str) else arguments
    return found if isinstance(found, dict) else arguments


def _parsed(text: str) -> Any:
    """What a text says as JSON; None where it is none."""
    try:
        return loads(text)
    except ValueError:
        return None


def _as_text(arguments: Any) -> Any:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
