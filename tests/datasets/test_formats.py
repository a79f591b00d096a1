"""Rows to texts: how they are read, what of them is learned, and the templates that are no chat template."""

from __future__ import annotations

import pytest

from farss.datasets.formats import final_answer, formatter, gsm8k_solution, task_format
from farss.errors import ConfigError, DataError

GSM8K = {"question": "How many?", "answer": "She has 2*3=<<2*3=6>>6.\nThen $<<6-1=5>>5 left.\n#### 1,005"}
TALK = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
TWO_TURNS = [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, "abcd", strict=True)]


def learned(rendered) -> list[str]:
    return [rendered.text[begin:end] for begin, end in rendered.learned]


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


def test_named_formats():
    problem = {"question": "q", "answer": "1 + 1 = 2. The answer is: 2"}
    assert task_format("word_problems").gold(problem) == "2"
    meta = {"query": "q", "response": "so\n#### 72\nThe answer is: 72", "type": "x"}
    form = task_format("metamathqa")
    assert form.record(meta).answer == meta["response"] and form.gold(meta) == "72" and not form.record(meta).unused
    assert task_format("alpaca").gold({"instruction": "i", "input": "", "output": "o"}) is None
    assert task_format("mine").gold({"question": "q", "answer": "a", "final": 7}) == "7"


def test_rows_without_the_fields_are_named_by_number_and_fields():
    with pytest.raises(DataError) as caught:
        task_format("mine", [{"question": "q", "answer": "a"}, {"question": "q", "reply": "a"}])
    assert "mine, row 2" in str(caught.value) and "reply" in str(caught.value)
    with pytest.raises(DataError, match="gsm8k, row 1"):
        task_format("gsm8k", [{"question": 3, "answer": "a"}])


def test_plain_is_what_it_always_was():
    rendered = formatter("gsm8k", "plain")(GSM8K)
    assert rendered.prompt == "Question: How many?\nAnswer:" == formatter("gsm8k", "plain").prompt(GSM8K)
    (answer,) = learned(rendered)
    assert answer.startswith(" She") and answer.endswith("The answer is: 1,005")
    assert rendered.divided == len(rendered.prompt) and not rendered.opened and not rendered.closed


@pytest.mark.case("Alpaca's own prompt")
@pytest.mark.parametrize("given", ["", "Rome, Oslo"])
def test_alpaca_is_the_prompt_that_goes_by_the_name(given):
    row = {"instruction": "Sort the cities.", "input": given, "output": "Oslo, Rome"}
    rendered = formatter("mine", "alpaca")(row)
    context = ", paired with an input that provides further context" if given else ""
    opening = f"Below is an instruction that describes a task{context}. "
    shown = "### Input:\nRome, Oslo\n\n" if given else ""
    assert rendered.prompt == (
        f"{opening}Write a response that appropriately completes the request.\n\n"
        f"### Instruction:\nSort the cities.\n\n{shown}### Response:\n"
    )
    assert learned(rendered) == ["Oslo, Rome"]


@pytest.mark.case("system and history of Alpaca rows")
def test_system_and_history_go_into_the_alpaca_prompt():
    row = {
        "instruction": "And six?",
        "input": "",
        "output": "six",
        "system": "One word.",
        "history": [["Five?", "five"]],
    }
    rendered = formatter("mine", "alpaca")(row)
    assert learned(rendered) == ["five", "six"] and rendered.text.startswith("One word.\n\n### Instruction:\nFive?")
    assert rendered.text.endswith("five\n\n### Instruction:\nAnd six?\n\n### Response:\nsix")
    assert learned(formatter("mine", "alpaca", turns="last")(row)) == ["six"]


@pytest.mark.case("text as it is given")
def test_nothing_is_stripped_and_nothing_added_by_none():
    row = {"prompt": "def add(x):\n", "completion": "    return x\n\n"}
    rendered = formatter("mine", "none")(row)
    assert rendered.text == "def add(x):\n    return x\n\n" and learned(rendered) == ["    return x\n\n"]
    assert formatter("mine", "auto")(row) == rendered
    assert learned(formatter("mine", "plain")(row)) == ["     return x\n\n"]


@pytest.mark.case("rows of text")
@pytest.mark.parametrize("template", ["auto", "plain", "alpaca", "none"])
def test_rows_of_text_are_learned_whole(template):
    rendered = formatter("mine", template)({"text": " Once upon a time.\n"})
    assert rendered.text == " Once upon a time.\n" and learned(rendered) == [rendered.text]


@pytest.mark.parametrize("template", ["plain", "none"])
def test_several_turns_need_a_chat_template(template):
    with pytest.raises(DataError, match="chat template"):
        formatter("mine", template)({"messages": TWO_TURNS})
    with pytest.raises(DataError, match="tools need a chat template"):
        formatter("mine", template)({"messages": TALK, "tools": [{"name": "x"}]})


def test_a_system_text_stands_before_a_plain_question():
    row = {"messages": [{"role": "system", "content": "s"}, *TALK]}
    assert formatter("mine", "plain")(row).prompt == "Question: s\n\nu\nAnswer:"
    with pytest.raises(DataError, match="chat template"):
        formatter("mine", "none")(row)


def test_braces_in_a_question_are_left_alone():
    assert "{x}" in formatter("mine", "plain").prompt({"question": "What is {x}?", "answer": "{y}"})


@pytest.mark.parametrize("template", ["plain", "alpaca", "none"])
def test_an_empty_response_is_refused(template):
    with pytest.raises(DataError, match="empty response"):
        formatter("mine", template)({"question": "q", "answer": "  "})
    with pytest.raises(DataError, match="empty text"):
        formatter("mine", template)({"text": "  "})


@pytest.mark.case("half a character")
@pytest.mark.parametrize("template", ["plain", "alpaca", "none"])
def test_half_a_character_is_refused(template):
    with pytest.raises(DataError, match="half a character"):
        formatter("mine", template)({"question": "What? \ud83d", "answer": "four"})


def test_a_template_that_is_no_name_and_no_file_is_refused(tmp_path, tiny_tokenizer):
    with pytest.raises(ConfigError, match="no such template"):
        formatter("mine", "x" * 3000, tiny_tokenizer)
    with pytest.raises(ConfigError, match=r"no such template[\s\S]*did you mean `alpaca`"):
        formatter("mine", "alpacca", tiny_tokenizer)
    (tmp_path / "mine.jinja").write_text("{% for m in messages %}<{{ m.content }}>{% endfor %}", encoding="utf-8")
    assert formatter("mine", str(tmp_path / "mine.jinja"), tiny_tokenizer)({"messages": TALK}).text == "<u><a>"


def test_auto_is_chat_where_there_is_a_template(tiny_tokenizer):
    assert formatter("gsm8k", "auto", tiny_tokenizer).template == "chat"
    assert formatter("gsm8k", "auto").template == "auto"
    with pytest.raises(ConfigError, match="no chat template"):
        formatter("gsm8k", "chat")
