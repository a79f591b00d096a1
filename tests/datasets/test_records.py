"""Rows of every form to records: what is read, what is obeyed, what is named, what is refused."""

from __future__ import annotations

import pytest

from farss.datasets.formats import task_format
from farss.datasets.records import BESIDE, FIELDS, REFUSED, read_record
from farss.datasets.turns import REFUSED as REFUSED_IN_TURNS
from farss.datasets.turns import TEMPLATE_FIELDS
from farss.errors import ConfigError, DataError


def said(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in pairs]


TALK = said(("user", "u"), ("assistant", "a"))
CALL = {"type": "function", "function": {"name": "find", "arguments": {"q": "x"}}}
WEATHER = {"type": "function", "function": {"name": "find", "parameters": {}}}

FORMS = {
    "prompt and completion": {"prompt": "u", "completion": "a"},
    "instruction": {"instruction": "u", "output": "a", "input": ""},
    "question": {"question": "u", "answer": "a"},
    "query": {"query": "u", "response": "a"},
    "input and output": {"input": "u", "output": "a"},
    "mixed names": {"instruction": "u", "response": "a"},
    "messages": {"messages": TALK},
    "ShareGPT": {"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]},
    "conversational pair": {"prompt": TALK[:1], "completion": TALK[1:]},
    "parts": {"messages": [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in TALK]},
    "no tools": {"messages": TALK, "tools": [], "system": None, "history": None},
}


@pytest.mark.case("forms of rows")
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_one_conversation(form):
    record = read_record(FORMS[form])
    assert [{"role": m["role"], "content": m["content"]} for m in record.messages] == TALK
    assert record.learned == (False, True) and not record.unused and not record.tools
    assert record.answer == "a" and '"u"' in record.question


def test_an_instruction_keeps_its_input_apart_and_joined():
    record = read_record({"instruction": "i", "input": "x", "output": "o"})
    assert record.messages[0]["content"] == "i\n\nx" and record.instruction == ("i", "x")


@pytest.mark.case("system and history of Alpaca rows")
def test_system_and_history_are_turns():
    record = read_record({"instruction": "c", "output": "d", "system": "s", "history": [["a", "b"]]})
    assert list(record.messages) == said(("system", "s"), *zip(["user", "assistant"] * 2, "abcd", strict=True))
    assert record.learned == (False, False, True, False, True)
    as_messages = read_record({"query": "c", "response": "d", "history": said(("user", "a"), ("assistant", "b"))})
    assert as_messages.messages == record.messages[1:]
    assert read_record({"conversations": TALK, "system": "s"}).messages[0] == {"role": "system", "content": "s"}


@pytest.mark.case("tools and calls")
def test_tools_and_calls_reach_the_template():
    turns = [
        TALK[0],
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "y"},
        TALK[1],
    ]
    for tools in ([WEATHER], '[{"type": "function", "function": {"name": "find", "parameters": {}}}]'):
        record = read_record({"messages": turns, "tools": tools})
        assert record.tools == (WEATHER,) and record.messages[1]["tool_calls"] == [CALL]
        assert record.learned == (False, True, False, True)
    spoken = [{"from": "human", "value": "u"}, {"from": "function_call", "value": '{"name": "find", "arguments": {}}'}]
    called = read_record({"conversations": [*spoken, {"from": "observation", "value": "y"}]})
    assert [m["role"] for m in called.messages] == ["user", "assistant", "tool"] and called.learned == (
        False,
        True,
        False,
    )


@pytest.mark.case("flags of messages")
@pytest.mark.parametrize("flag", [{"weight": 0}, {"train": False}, {"weight": 0.0}])
def test_a_flag_leaves_a_turn_out(flag):
    turns = [TALK[0], {**TALK[1], **flag}, *TALK]
    record = read_record({"messages": turns})
    assert record.learned == (False, False, False, True) and all(not set(flag) & set(m) for m in record.messages)


@pytest.mark.parametrize(
    "turn",
    [{"weight": 0.5}, {"weight": "0"}, {"train": "no"}, {"role": "user", "weight": 1}, {"role": "user", "train": True}],
)
def test_a_flag_that_cannot_be_obeyed_is_refused(turn):
    with pytest.raises(DataError, match=r"flag|only what the assistant says"):
        read_record({"messages": [TALK[0], {**TALK[1], **turn}, TALK[1]]})


@pytest.mark.case("every field is obeyed, named or refused")
@pytest.mark.parametrize("name", [*REFUSED, "anything", "source", "id"])
def test_every_other_field_of_a_row_is_refused_or_named(name):
    row = {"prompt": "u", "completion": "a", name: ["x"]}
    if name in REFUSED:
        with pytest.raises(DataError, match=f"no `{name}`"):
            read_record(row)
    else:
        assert read_record(row).unused == (name,)
    assert not read_record({**row, name: None}).unused


@pytest.mark.case("preference rows")
@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "u", "chosen": "a", "rejected": "b"},
        {"chosen": TALK, "rejected": TALK},
        {"conversations": [{"from": "human", "value": "u"}], "chosen": {"from": "gpt", "value": "a"}},
        {"prompt": TALK[:1], "completion": TALK[1:], "label": False},
        {"messages": TALK, "label": True},
        {"messages": TALK, "kto_tag": True},
    ],
)
def test_preferences_are_refused_with_the_way_to_learn_them(row):
    with pytest.raises(DataError, match=r"cannot be obeyed[\s\S]*farss\.apply\(model, plan\)[\s\S]*DPOTrainer"):
        read_record(row)


def test_prompts_alone_are_refused_with_the_way_to_learn_of_rewards():
    with pytest.raises(DataError, match=r"no prompt and response[\s\S]*farss\.apply[\s\S]*GRPO"):
        read_record({"prompt": "u", "solution": 4})


def test_a_label_beside_a_text_is_only_named():
    assert read_record({"text": "t", "label": True}).unused == ("label",)


@pytest.mark.case("every field is obeyed, named or refused")
@pytest.mark.parametrize("name", sorted({*REFUSED_IN_TURNS, *TEMPLATE_FIELDS, "mood"}))
def test_every_other_field_of_a_message_is_refused_handed_on_or_named(name):
    value = [CALL] if name == "tool_calls" else ["x"]
    row = {"messages": [TALK[0], {**TALK[1], name: value}]}
    if name in REFUSED_IN_TURNS:
        with pytest.raises(DataError, match=f"no `{name}`"):
            read_record(row)
        return
    record = read_record(row)
    assert record.messages[1][name] == value
    assert record.unused == (() if name in TEMPLATE_FIELDS else (f"messages[].{name}",))


@pytest.mark.case("every field is obeyed, named or refused")
@pytest.mark.parametrize("name", [name for name in FIELDS if name != "messages"])
def test_no_field_that_can_be_read_is_lost_beside_a_conversation(name):
    """What is not obeyed beside `messages` is named."""
    values = {"system": "s", "tools": [WEATHER], "chat_template_kwargs": {"k": 1}, "weight": 1, "final": "4"}
    record = read_record({"messages": TALK} | {name: values.get(name, TALK if name == "conversations" else "x")})
    obeyed = (record.messages != tuple(TALK), bool(record.tools), bool(record.options), name in ("weight", "final"))
    assert any(obeyed) or record.unused == (name,), record
    assert name not in BESIDE or any(obeyed) or name in ("input", "history")


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"messages": []}, "no conversation"),
        ({"messages": "text"}, "no conversation"),
        ({"messages": [{"role": "user"}] * 2}, "no conversation"),
        ({"messages": TALK[:1]}, "no turn of the assistant"),
        ({"messages": [TALK[0], {"role": "assistant", "content": None}]}, "no content"),
        ({"messages": [{**TALK[0], "content": [{"type": "image", "image": "x"}]}, TALK[1]]}, "parts that are no text"),
        ({"messages": [{**TALK[0], "content": 3}, TALK[1]]}, "content of a message is no text"),
        ({"instruction": "i", "input": ["b"], "output": "o"}, "lacks a text field"),
        ({"question": "q", "answer": 4}, "lacks a text field"),
        ({"prompt": "q", "completion": None}, "lacks a text field"),
        ({"prompt": "q", "completion": "a", "history": "before"}, "no list of exchanges"),
        ({"prompt": "q", "completion": "a", "history": [["a", 3]]}, "no list of exchanges"),
        ({"prompt": "q", "completion": "a", "tools": "{"}, "no JSON"),
        ({"prompt": "q", "completion": "a", "label": False}, "cannot be obeyed"),
        ({"prompt": "q", "completion": "a", "weight": 0.5}, "cannot be obeyed"),
        ({"messages": said(("system", "x"), ("user", "u"), ("assistant", "a")), "system": "y"}, "two system texts"),
        ({"text": "once", "system": "s"}, "no turns to put a field into"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_its_reason(row, what):
    with pytest.raises(DataError, match=what):
        read_record(row)


@pytest.mark.case("columns of other names")
def test_columns_are_mapped():
    row = {"ticket": "u", "resolution": "a", "messages": TALK, "text": "both", "system": "s"}
    record = read_record(row, {"prompt": "ticket", "response": "resolution"})
    assert [m["content"] for m in record.messages] == ["s", "u", "a"]
    with pytest.raises(DataError, match=r"lacks a column[\s\S]*ticket"):
        read_record({"other": "x"}, {"prompt": "ticket", "completion": "other"})


def test_a_mapping_to_no_field_of_ours_is_refused():
    with pytest.raises(ConfigError, match=r"mapped to a field that is not read[\s\S]*did you mean `prompt`"):
        task_format("mine", columns={"promt": "ticket"})


@pytest.mark.case("columns of other names")
@pytest.mark.parametrize(
    ("row", "advice"),
    [
        ({"Question": "u", "ANSWER": "a"}, "--columns question=Question,answer=ANSWER"),
        ({"instructions": "u", "responses": "a"}, "--columns instruction=instructions,response=responses"),
        ({"ticket": "u", "resolution": "a"}, "--columns prompt=ticket,completion=resolution"),
        ({"a": "u", "b": "v", "c": "w"}, "--columns prompt=COLUMN,completion=COLUMN"),
    ],
)
def test_a_mapping_is_suggested(row, advice):
    with pytest.raises(DataError, match=advice):
        read_record(row)
