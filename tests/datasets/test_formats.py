"""Rows to prompt and response texts."""

from __future__ import annotations

import pytest

from farss.datasets.formats import final_answer, formatter, gsm8k_solution, task_format
from farss.errors import ConfigError, DataError

GSM8K = {"question": "How many?", "answer": "She has 2*3=<<2*3=6>>6.\nThen $<<6-1=5>>5 left.\n#### 1,005"}
CHAT = (
    "{{ '<bos>' }}{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + '<end>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


class ChatTokenizer:
    """The one method of a tokenizer that a chat formatter calls."""

    chat_template = CHAT
    name_or_path = "tiny"

    def apply_chat_template(self, messages, tokenize, add_generation_prompt=False):
        import jinja2

        assert tokenize is False
        return jinja2.Template(CHAT).render(messages=messages, add_generation_prompt=add_generation_prompt)


class PlainTokenizer:
    chat_template = None
    name_or_path = "plain"


def test_gsm8k_solutions_lose_their_marks_and_get_the_answer_phrase():
    assert gsm8k_solution(GSM8K["answer"]) == "She has 2*3=6.\nThen $5 left.\nThe answer is: 1,005"
    assert task_format("gsm8k").gold(GSM8K) == "1005"


@pytest.mark.parametrize(
    ("text", "final"),
    [("so 3.\nThe answer is: 72", "72"), ("#### 1,234,567", "1234567"), ("The answer is: 5.", "5"),
     ("The answer is: 1\nThe answer is: 2", "2"), ("nothing", None), ("The answer is: (1, 2)", "(1, 2)")],
)  # fmt: skip
def test_final_answers(text, final):
    assert final_answer(text) == final


@pytest.mark.parametrize(
    ("row", "asked", "answered"),
    [
        ({"prompt": "p", "completion": "c"}, "p", "c"),
        ({"instruction": "i", "output": "o"}, "i", "o"),
        ({"instruction": "i", "input": "x", "output": "o"}, "i\n\nx", "o"),
        ({"question": "q", "answer": "a"}, "q", "a"),
        ({"query": "q", "response": "r"}, "q", "r"),
        ({"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]}, "u", "a"),
        (
            {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"},
                          {"role": "assistant", "content": "a"}]},
            "s\n\nu", "a",
        ),
    ],
)  # fmt: skip
def test_generic_rows_are_read_by_their_fields(row, asked, answered):
    form = task_format("mine.jsonl", [row])
    assert (form.prompt(row), form.response(row), form.gold(row)) == (asked, answered, None)


def test_named_formats():
    problem = {"question": "q", "answer": "1 + 1 = 2. The answer is: 2"}
    assert task_format("word_problems").gold(problem) == "2"
    meta = {"query": "q", "response": "so\n#### 72\nThe answer is: 72"}
    assert task_format("metamathqa").response(meta) == meta["response"] and task_format("metamathqa").gold(meta) == "72"
    assert task_format("alpaca").gold({"instruction": "i", "input": "", "output": "o"}) is None
    assert task_format("mine").gold({"question": "q", "answer": "a", "final": 7}) == "7"


def test_rows_without_the_fields_are_named_by_number_and_fields():
    with pytest.raises(DataError) as caught:
        task_format("mine", [{"question": "q", "answer": "a"}, {"question": "q", "reply": "a"}])
    assert "mine, row 2" in str(caught.value) and "reply" in str(caught.value)
    with pytest.raises(DataError, match="gsm8k, row 1"):
        task_format("gsm8k", [{"question": 3, "answer": "a"}])


@pytest.mark.parametrize("messages", [[], "text", [{"role": "user", "content": "u"}], [{"role": "user"}] * 2])
def test_conversations_must_end_with_the_assistant(messages):
    with pytest.raises(DataError, match="no conversation"):
        formatter("mine", "plain")({"messages": messages})


def test_several_turns_need_a_chat_template():
    turns = [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, "abcd", strict=True)]
    with pytest.raises(DataError, match="chat template"):
        formatter("mine", "plain")({"messages": turns})
    prompt, response = formatter("mine", "chat", ChatTokenizer())({"messages": turns})
    assert prompt.endswith("<user>c<end>\n<assistant>") and response == "d"
    assert task_format("mine", [{"messages": turns}])


def test_plain_puts_the_space_before_the_response():
    render = formatter("gsm8k", "plain", PlainTokenizer())
    prompt, response = render(GSM8K)
    assert prompt == "Question: How many?\nAnswer:" == render.prompt(GSM8K)
    assert response.startswith(" She") and response.endswith("The answer is: 1,005")
    assert render.adds_special_tokens and render.turn_end is None


def test_alpaca_ends_its_prompt_with_a_line_break():
    prompt, response = formatter("gsm8k", "alpaca")(GSM8K)
    assert "### Instruction:\nHow many?\n" in prompt and prompt.endswith("### Response:\n")
    assert response.startswith("She")


def test_chat_holds_its_own_special_tokens_and_knows_its_end():
    render = formatter("gsm8k", "chat", ChatTokenizer())
    prompt, response = render(GSM8K)
    assert prompt == "<bos><user>How many?<end>\n<assistant>" and response.startswith("She")
    assert not render.adds_special_tokens and render.turn_end == "<end>"


def test_auto_is_chat_where_there_is_a_template():
    assert formatter("gsm8k", "auto", ChatTokenizer()).template == "chat"
    assert formatter("gsm8k", "auto", PlainTokenizer()).template == "plain"
    with pytest.raises(ConfigError, match="no chat template"):
        formatter("gsm8k", "chat", PlainTokenizer())


def test_braces_in_a_question_are_left_alone():
    prompt, _ = formatter("mine", "plain")({"question": "What is {x}?", "answer": "{y}"})
    assert "{x}" in prompt


def test_an_empty_response_is_refused():
    with pytest.raises(DataError, match="empty response"):
        formatter("mine", "plain")({"question": "q", "answer": "  "})
