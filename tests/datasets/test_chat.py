"""Chat templates without marks: what is learned where one is unlike the others, and what it may not leave out."""

from __future__ import annotations

import copy

import pytest

from farss.datasets.formats import formatter
from farss.errors import ConfigError, DataError

TURNS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}[end]\n{% endfor %}"
ASK = "{% if add_generation_prompt %}[assistant]{% endif %}"
REASONING = (
    "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' and loop.last %}<think></think>{{ m.content }}"
    "{% else %}{{ m.content.split('</think>')[-1] }}{% endif %}[end]\n{% endfor %}"
)
CALL = {"type": "function", "function": {"name": "find", "arguments": {"q": "x"}}}


def said(*texts: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 9, texts, strict=False)]


@pytest.fixture
def learned(tiny_tokenizer, tmp_path):
    def parts(template: str, row: dict, **settings) -> list[str]:
        file = tmp_path / "t.jinja"
        file.write_text(template, encoding="utf-8")
        rendered = formatter("mine", str(file), tiny_tokenizer, **settings)(row)
        return [rendered.text[begin:end] for begin, end in rendered.learned]

    return parts


@pytest.mark.case("turns that are learned")
def test_all_turns_or_the_last_are_learned_with_their_ends(learned):
    row = {"messages": said("a", "b", "c", "d")}
    assert learned(TURNS + ASK, row) == ["b[end]\n", "d[end]\n"]
    assert learned(TURNS + ASK, row, turns="last") == ["d[end]\n"]
    row["messages"][1]["train"] = False
    assert learned(TURNS + ASK, row) == ["d[end]\n"]


@pytest.mark.case("reasoning templates")
def test_the_block_that_the_template_writes_is_learned(learned):
    row = {"messages": said("a", "<think>why</think>b", "c", "<think>how</think>d")}
    assert learned(REASONING + ASK, row) == ["b[end]\n", "<think></think><think>how</think>d[end]\n"]


@pytest.mark.case("reasoning templates")
def test_a_prompt_that_opens_a_block_is_followed_as_far_as_the_text_goes(learned):
    ask = "{% if add_generation_prompt %}[assistant]<think>{% endif %}"
    assert learned(TURNS + ask, {"messages": said("a", "b", "c", "d")}) == ["b[end]\n", "d[end]\n"]


def test_a_template_that_closes_every_text_does_not_close_earlier_turns(learned):
    """What is written after the last turn stands after no other one."""
    template = TURNS + "{% if not add_generation_prompt %}(over){% endif %}" + ASK
    row = {"messages": said("a", "b", "c", "d")}
    assert learned(template, row) == ["b[end]\n", "d[end]\n(over)"]


def test_a_conversation_may_begin_with_the_assistant_and_end_with_the_user(learned):
    turns = [{"role": "assistant", "content": "hello"}, *said("a", "b", "c")]
    assert learned(TURNS + ASK, {"messages": turns}) == ["hello[end]\n", "b[end]\n"]


def test_an_answer_that_repeats_the_question_is_found(learned):
    assert learned(TURNS + ASK, {"messages": said("a", "a", "a", "a")}) == ["a[end]\n", "a[end]\n"]
    assert learned(REASONING + ASK, {"messages": said("[assistant]", "[end]\n", "a", "[assistant]")})[1].endswith(
        "[assistant][end]\n"
    )


def test_an_answer_that_nothing_closes_is_closed_by_the_tokenizer(tiny_tokenizer, tmp_path):
    file = tmp_path / "t.jinja"
    for ending, closed in (("", False), ("[end]", True)):
        file.write_text(
            "{% for m in messages %}<{{ m.role }}>{{ m.content }}" + ending + "{% endfor %}", encoding="utf-8"
        )
        assert formatter("mine", str(file), tiny_tokenizer)({"messages": said("a", "b")}).closed is closed


@pytest.mark.case("tools and calls")
@pytest.mark.parametrize(
    ("row", "lost"),
    [
        ({"messages": said("a", "b"), "tools": [{"name": "find"}]}, "`tools`"),
        ({"messages": [*said("a"), {**said("a", "b")[1], "tool_calls": [CALL]}]}, "tool call of `find`"),
        ({"messages": [{"role": "system", "content": "terse"}, *said("a", "b")]}, "a turn of `system`"),
        ({"messages": [*said("a", "b"), {"role": "tool", "content": "cold"}, *said("c", "d")]}, "a turn of `tool`"),
    ],
)  # fmt: skip
def test_what_a_template_leaves_out_is_refused(learned, row, lost):
    two_roles = (
        "{% for m in messages %}{% if m.role in ['user', 'assistant'] %}[{{ m.role }}]{{ m.content }}[end]\n{% endif %}"
        "{% endfor %}" + ASK
    )
    with pytest.raises(DataError, match=rf"leaves out a part of the row[\s\S]*{lost}"):
        learned(two_roles, row)


@pytest.mark.case("reasoning templates")
@pytest.mark.parametrize(
    "answer", [{"content": "<think>\nwhy\n</think>\n\nb"}, {"content": "b", "reasoning_content": "why"}]
)
def test_reasoning_that_is_to_be_learned_is_not_left_out_in_silence(learned, answer):
    """Templates that write finished conversations drop reasoning; of earlier turns that is the template's own way."""
    drops = "{% for m in messages %}[{{ m.role }}]{{ m.content.split('</think>')[-1] }}[end]{% endfor %}" + ASK
    thinking = {"role": "assistant", **answer}
    asking = said("a")[0]
    with pytest.raises(DataError, match=r"leaves out a part of the row[\s\S]*reasoning of the last answer"):
        learned(drops, {"messages": [asking, thinking]})
    assert learned(drops, {"messages": [asking, thinking, *said("c", "d")]})[-1] == "d[end]"
    assert learned(drops, {"messages": [asking, thinking | {"train": False}, *said("c", "d")]}) == ["d[end]"]


CALLED = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content or '' }}{% for c in m.tool_calls or [] %}<{{ c.function.name }}>"
)
CALLED += "WRITE{% endfor %}[end]{% endfor %}" + ASK


@pytest.mark.case("tools and calls")
@pytest.mark.parametrize("arguments", [{"q": "x"}, '{"q": "x"}'])
@pytest.mark.parametrize(
    "write",
    [
        "{{ c.function.arguments | tojson }}",
        "{{ '' + c.function.arguments }}",
        "{{ c.function.arguments if c.function.arguments is string else c.function.arguments | tojson }}",
        "{{ '{' }}{% for k, v in c.function.arguments.items() %}{{ k | tojson }}: {{ v | tojson }}}{% endfor %}",
    ],
)
def test_arguments_are_learned_as_an_object_whichever_form_row_and_template_have(learned, arguments, write):
    call = {"type": "function", "function": {"name": "find", "arguments": arguments}}
    row = {"messages": [*said("a"), {"role": "assistant", "content": None, "tool_calls": [call]}]}
    assert learned(CALLED.replace("WRITE", write), row) == ['<find>{"q": "x"}[end]']


@pytest.mark.parametrize(
    ("arguments", "written"), [("", '""'), ("find", '"find"'), (None, "null"), ({}, "{}"), ("{}", "{}")]
)
def test_arguments_that_say_nothing_are_taken_as_they_are(learned, arguments, written):
    call = {"type": "function", "function": {"name": "find", "arguments": arguments}}
    row = {"messages": [*said("a"), {"role": "assistant", "content": None, "tool_calls": [call]}]}
    template = CALLED.replace("WRITE", "{{ c.function.arguments | tojson }}")
    assert learned(template, row) == [f"<find>{written}[end]"]


def test_arguments_that_a_template_can_only_quote_are_refused(learned):
    call = {"type": "function", "function": {"name": "find", "arguments": '["x"]'}}
    row = {"messages": [*said("a"), {"role": "assistant", "content": None, "tool_calls": [call]}]}
    with pytest.raises(DataError, match="as a string in quotes"):
        learned(CALLED.replace("WRITE", "{{ c.function.arguments | tojson }}"), row)


@pytest.mark.case("tools and calls")
@pytest.mark.parametrize(
    "calls", ["find", ["find"], [{}], [{"function": "find"}], [{"function": {"name": 3}}], {"a": 1}]
)
def test_calls_that_name_no_function_are_refused(learned, calls):
    row = {"messages": [*said("a"), {"role": "assistant", "content": None, "tool_calls": calls}]}
    with pytest.raises(DataError, match="a tool call has no name"):
        learned(CALLED, row)


@pytest.mark.case("content in parts")
def test_a_template_that_reads_parts_alone_is_given_parts(learned):
    parts = "{% for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %}"
    template = "{% for m in messages %}[{{ m.role }}]" + parts + "[end]{% endfor %}" + ASK
    assert learned(template, {"messages": said("a", "b", "c", "d")}) == ["b[end]", "d[end]"]
    in_parts = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in said("a", "b")]
    for either in (template, TURNS + ASK):
        assert learned(either, {"messages": in_parts})[0].startswith("b[end]")


@pytest.mark.case("tools and calls")
def test_words_that_a_template_escapes_or_trims_are_no_loss(learned):
    template = "{% for m in messages %}[{{ m.role }}]{{ m.content | trim | tojson }}[end]{% endfor %}" + ASK
    assert learned(template, {"messages": said('"quoted"\n', "caf\u00e9 ")}) == ['"caf\u00e9"[end]']


@pytest.mark.parametrize(
    "template", ["{{ messages[7].content.x }}", "{% for m in %}", "{{ 1 + 'a' }}", "{{ messages | foo }}"]
)
def test_a_template_that_fails_is_no_traceback(learned, template):
    with pytest.raises(DataError, match="refuses the row"):
        learned(template, {"messages": said("a", "b")})


@pytest.mark.case("turns that are learned")
def test_marks_are_told_apart_by_their_turns(learned):
    marked = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }};{% endgeneration %}"
        "{% else %}{{ m.content }}?{% endif %}{% endfor %}"
    )
    row = {"messages": said("a", "b", "c", "d")}
    assert learned(marked, row) == ["b;", "d;"] and learned(marked, row, turns="last") == ["d;"]
    with pytest.raises(DataError, match="do not tell the turns apart"):
        learned(
            "{% generation %}{% for m in messages %}{{ m.content }}{% endfor %}{% endgeneration %}", row, turns="last"
        )


@pytest.mark.case("templates without bounds")
@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 10 ** 11 }}",
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
        "{% if messages[0].content == 'a' %}{{ '%90000000000d' % 1 }}{% endif %}" + TURNS,
        "{{ messages[0].content.ljust(10 ** 11) }}",
    ],
    ids=["time", "product", "doubling", "one row", "width"],
)
def test_a_template_that_takes_without_end_is_refused_by_name(learned, monkeypatch, template):
    monkeypatch.setattr("farss.datasets.chat.SECONDS", 0.05)
    monkeypatch.setattr("farss.datasets.chat.MEMORY", 1 << 28)
    with pytest.raises(ConfigError, match=r"takes more than a conversation[\s\S]*data\.template: [\s\S]*t\.jinja"):
        learned(template, {"messages": said("a", "b")})


@pytest.mark.case("templates without bounds")
@pytest.mark.parametrize("size", [1 << 18, 1 << 20])
def test_a_template_that_is_too_long_is_refused_by_name(learned, size):
    with pytest.raises(ConfigError, match=r"longer than one can be|larger than one can be") as refused:
        learned("{# " + "x" * size + " #}" + TURNS, {"messages": said("a", "b")})
    assert "t.jinja" in str(refused.value)


@pytest.mark.case("templates without bounds")
def test_a_tokenizers_own_template_is_bounded_too(tiny_tokenizer, monkeypatch):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    monkeypatch.setattr("farss.datasets.chat.SECONDS", 0.05)
    tokenizer.name_or_path = "somebody/model"
    tokenizer.chat_template = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(ConfigError, match=r"takes more[\s\S]*the chat template of somebody/model"):
        formatter("mine", "auto", tokenizer)


@pytest.mark.parametrize("template", ["{{ range(10 ** 9) }}", "{{ 1 / 0 }}", "{{ [][3].x }}", "{{ messages.x.y }}"])
def test_what_goes_wrong_in_a_template_is_an_error_of_the_row(learned, template):
    with pytest.raises(DataError, match="refuses the row"):
        learned(template + TURNS, {"messages": said("a", "b")})
