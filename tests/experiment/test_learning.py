"""What of the rows is learned, what closes it, and what becomes of rows that are too long."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from farss.config import Recipe
from farss.errors import ConfigError, DataError
from farss.experiment import materials
from farss.experiment.task_rows import training_portion

TALK = [
    {"role": "user", "content": "ask"},
    {"role": "assistant", "content": "say"},
    {"role": "user", "content": "more"},
    {"role": "assistant", "content": "end"},
]
PAIR = {"prompt": "ask", "completion": "say"}
LONG = [{"prompt": "ask" * i, "completion": "say"} for i in (1, 2, 9)]
"""Rows of 7, 10 and 31 tokens, with their end."""
CUT = "{% for m in messages %}{{ m.content }}<unk>{% endfor %}"
"""A chat template whose turns end with a special token that is not the end of sequence."""


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def recipe(file: str, **data: Any) -> Recipe:
    settings = {"held_out": 0, "template": "none"} | data
    return Recipe().override({"data.task": file, **{f"data.{name}": value for name, value in settings.items()}})


@pytest.fixture(autouse=True)
def _small_model(monkeypatch):
    """The model's configuration, which says what it reads, without a model."""
    from transformers import LlamaConfig

    small = LlamaConfig(vocab_size=200, max_position_embeddings=512)
    monkeypatch.setattr(materials, "_configuration", lambda recipe: small)


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def learned(tmp_path, tiny_tokenizer):
    """What is learned of a row, as text."""

    def text(row: dict[str, Any], **data: Any) -> str:
        found = materials.training_set(recipe(write(tmp_path / "a.jsonl", [row]), **data), tiny_tokenizer)
        return tiny_tokenizer.decode([label for label in found.examples[0].labels if label >= 0])

    return text


class TestEverything:
    """`data.learn: everything`."""

    @pytest.mark.case("the prompt is learned too")
    @pytest.mark.parametrize(
        ("row", "template", "text"),
        [
            (PAIR, "none", "sksay<eos>"),
            (PAIR, "plain", "uestion: ask\nAnswer: say<eos>"),
            ({"messages": TALK}, CUT, "sk<unk>say<unk>more<unk>end<unk>"),
            ({"text": "all"}, "none", "ll<eos>"),
        ],
    )
    def test_every_token_but_the_first_is_a_label(self, learned, row, template, text):
        assert learned(row, template=template, learn="everything") == text

    @pytest.mark.parametrize("template", ["none", "plain", CUT])
    def test_answers_are_learned_alone_otherwise(self, learned, template):
        text = learned(PAIR, template=template)
        assert "say" in text and "ask" not in text

    @pytest.mark.parametrize("flag", [{"train": False}, {"weight": 0}])
    def test_a_turn_that_a_flag_keeps_out_is_refused(self, learned, flag):
        row = {"messages": [TALK[0], TALK[1] | flag, *TALK[2:]]}
        assert learned(row, template=CUT) == "end<unk>"
        with pytest.raises(DataError, match=r"keeps a turn from being learned[\s\S]*row 1"):
            learned(row, template=CUT, learn="everything")

    def test_it_is_not_said_with_the_last_turn_alone(self):
        with pytest.raises(ConfigError, match=r"either all tokens are learned or only the last"):
            Recipe().override({"data.learn": "everything", "data.turns": "last"})

    def test_what_is_measured_is_the_answer(self, tmp_path, tiny_tokenizer):
        file = write(tmp_path / "a.jsonl", [PAIR])
        found = materials.test_set(recipe(file, held_out=1, learn="everything"), tiny_tokenizer)
        assert tiny_tokenizer.decode(found.examples[0].response_ids) == "say<eos>" and found.prompts == ["ask"]


class TestEndOfTurn:
    """`data.end_of_turn`."""

    @pytest.mark.case("an end of turn of one's own")
    @pytest.mark.parametrize("template", ["none", "plain", "alpaca"])
    def test_it_closes_what_no_template_closes(self, learned, template):
        assert learned(PAIR, template=template, end_of_turn="<bos>").endswith("say<bos>")
        assert learned(PAIR, template=template).endswith("say<eos>")

    def test_it_is_not_written_twice(self, learned):
        assert learned({"prompt": "ask", "completion": "say<bos>"}, end_of_turn="<bos>") == "say<bos>"
        assert learned({"text": "all<bos>"}, end_of_turn="<bos>") == "ll<bos>"

    def test_a_chat_template_writes_its_own(self, learned):
        assert learned(PAIR, template=CUT, end_of_turn="<bos>") == "say<unk>"

    @pytest.mark.parametrize(("end", "tokens"), [("<|im_end|>", 10), ("\u00e9", 1), ("", 0)])
    def test_what_is_no_single_token_is_refused(self, learned, end, tokens):
        with pytest.raises(ConfigError, match=rf"no single token[\s\S]*data.end_of_turn[\s\S]*{tokens} tokens"):
            learned(PAIR, end_of_turn=end)

    def test_the_model_stops_at_it(self, tmp_path, tiny_tokenizer):
        file = write(tmp_path / "a.jsonl", [PAIR])
        assert materials.learned_ends(recipe(file, end_of_turn="<bos>"), tiny_tokenizer).tokens == (2,)
        assert materials.learned_ends(recipe(file), tiny_tokenizer).tokens == ()
        assert materials.learned_ends(recipe(file, template=CUT), tiny_tokenizer).tokens == (3,)
        words = materials.learned_ends(recipe(file, template=CUT.replace("<unk>", "\n###\n")), tiny_tokenizer)
        assert (words.tokens, words.texts) == ((), ("\n###",))


class TestTooLong:
    """`data.too_long`."""

    def made(self, tmp_path, tokenizer, **data):
        return materials.training_set(recipe(write(tmp_path / "a.jsonl", LONG), max_length=9, **data), tokenizer)

    @pytest.mark.case("what becomes of long rows")
    @pytest.mark.parametrize(("choice", "used", "cut", "left_out"), [("cut", 2, 1, 1), ("drop", 1, 0, 2)])
    def test_long_rows_are_cut_or_dropped_and_counted(self, tmp_path, tiny_tokenizer, choice, used, cut, left_out):
        account = self.made(tmp_path, tiny_tokenizer, too_long=choice).account
        assert (account.used, account.cut, account.left_out) == (used, cut, left_out)

    def test_what_is_dropped_is_said(self, tmp_path, tiny_tokenizer):
        with pytest.warns(match=r"2 of 3 rows are longer than 9 tokens and are dropped"):
            self.made(tmp_path, tiny_tokenizer, too_long="drop")

    def test_a_long_row_is_refused_by_its_number(self, tmp_path, tiny_tokenizer, monkeypatch):
        monkeypatch.setattr(materials, "tokenizer_of", lambda recipe: tiny_tokenizer)
        asked = recipe(write(tmp_path / "a.jsonl", LONG), max_length=9, too_long="refuse")
        with pytest.raises(DataError, match=r"longer than data.max_length[\s\S]*row 2[\s\S]*10 tokens"):
            materials.training_set(asked, tiny_tokenizer)
        with pytest.raises(DataError, match="row 2"):  # before a model is loaded
            materials.check_inputs(asked, test=False)
        enough = asked.override({"data.max_length": 31})
        assert materials.training_set(enough, tiny_tokenizer).account.used == 3

    def test_nothing_left_is_refused(self, tmp_path, tiny_tokenizer):
        asked = recipe(write(tmp_path / "a.jsonl", LONG[1:]), max_length=9, too_long="drop")
        with pytest.raises(DataError, match=r"every row is longer[\s\S]*shortest row: 10 tokens"):
            materials.training_set(asked, tiny_tokenizer)

    def test_for_a_dropped_row_another_is_drawn(self, tmp_path, tiny_tokenizer):
        rows = [{"prompt": f"{i:02}" * (1 + 9 * (i % 2)), "completion": "say"} for i in range(40)]
        asked = recipe(write(tmp_path / "a.jsonl", rows), max_length=9, too_long="drop")
        found = materials.calibration_set(asked, tiny_tokenizer, 12)
        numbers = [training_portion(asked).rows[place].number for place in found.places]
        assert len(numbers) == 12 and all(number % 2 for number in numbers)
