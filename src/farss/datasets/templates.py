"""Templates that are no chat template: a record to its text and what of it is learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from farss.datasets.records import Record, excerpt
from farss.datasets.rendered import Rendered, Span
from farss.errors import DataError

PLAIN = "Question: {}\nAnswer:"
ALPACA_OPENING = (
    "Below is an instruction that describes a task{}. Write a response that appropriately completes the request."
)
ALPACA_INPUT = ", paired with an input that provides further context"


def plain(record: Record) -> Rendered:
    """`Question: ...`, `Answer:` and the answer after a space; prompt and answer are tokenised apart.

    Raises:
        DataError: if the row has several turns of the assistant, tools, or an empty answer.
    """
    asked, answer = _one_exchange(record, "plain")
    prompt, response = PLAIN.format(asked), f" {answer}"
    return Rendered(prompt + response, ((len(prompt), len(prompt + response)),), divided=len(prompt))


def alpaca(record: Record) -> Rendered:
    """The usual Alpaca prompt, `### Input:` where the row has an input; earlier exchanges come before, each learned.

    A system text takes the place of the opening sentences. Every answer but the last is closed by a blank line.

    Raises:
        DataError: if the row has tools or an empty answer, or its turns do not alternate.
    """
    system, exchanges = _exchanges(record, "alpaca")
    given = record.instruction[1] if record.instruction is not None else ""
    opening = system or ALPACA_OPENING.format(ALPACA_INPUT if given and len(exchanges) == 1 else "")
    text, learned = f"{opening}\n\n", list[Span]()
    for number, (asked, answer, wanted) in enumerate(exchanges, start=1):
        last = number == len(exchanges)
        question = record.instruction[0] if last and record.instruction is not None else asked
        text += f"### Instruction:\n{question}\n\n"
        text += f"### Input:\n{given}\n\n" if last and given else ""
        text += "### Response:\n"
        learned += [(len(text), len(text) + len(answer))] if wanted else []
        text += answer if last else f"{answer}\n\n"
    return Rendered(text, tuple(learned))


def verbatim(record: Record) -> Rendered:
    """Prompt and answer as they are, one after the other, nothing between or around them.

    Raises:
        DataError: if the row has more than one question and one answer, tools, or an empty answer.
    """
    asked, answer = _one_exchange(record, "none", joins=False)
    return Rendered(asked + answer, ((len(asked), len(asked + answer)),))


def whole(record: Record) -> Rendered:
    """The text of a row of plain language modelling, all of it learned.

    Raises:
        DataError: if it is empty.
    """
    text = record.text or ""
    if not text.strip():
        raise DataError("a row has an empty text")
    return Rendered(text, ((0, len(text)),))


TEXT_TEMPLATES: Mapping[str, Callable[[Record], Rendered]] = {"plain": plain, "alpaca": alpaca, "none": verbatim}


def _exchanges(record: Record, template: str) -> tuple[str, list[tuple[str, str, bool]]]:
    """The system text, and question, answer and whether it is learned of every exchange."""
    messages = list(zip(record.messages, record.learned, strict=True))
    if record.tools or any(message.get("tool_calls") for message, _ in messages):
        raise _needs_chat("tools need a chat template", template, record)
    system = ""
    if messages and messages[0][0]["role"] == "system":
        system = str(messages.pop(0)[0]["content"])
    roles = [message["role"] for message, _ in messages]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        raise _needs_chat("a conversation of several turns needs a chat template", template, record)
    turns = [(str(message["content"] or ""), wanted) for message, wanted in messages]
    exchanges = [(asked, *answered) for (asked, _), answered in zip(turns[::2], turns[1::2], strict=True)]
    if not any(wanted for _, _, wanted in exchanges):
        raise DataError("nothing of the row is learned", expected="a turn of the assistant without `train: false`")
    if any(not answer.strip() for _, answer, wanted in exchanges if wanted):
        raise DataError("a row has an empty response", got=excerpt(record.messages))
    return system, exchanges


def _one_exchange(record: Record, template: str, *, joins: bool = True) -> tuple[str, str]:
    system, exchanges = _exchanges(record, template)
    if len(exchanges) > 1 or (system and not joins):
        raise _needs_chat("a conversation of several turns needs a chat template", template, record)
    asked, answer, _ = exchanges[0]
    return (f"{system}\n\n{asked}" if system else asked), answer


def _needs_chat(what: str, template: str, record: Record) -> DataError:
    return DataError(
        what,
        expected=f"for data.template: {template}, one question and one answer",
        got=", ".join(message["role"] for message in record.messages) + (", with tools" if record.tools else ""),
        do="use the template `chat` with a model that has one, or give a template file",
    )
