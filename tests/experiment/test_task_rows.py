"""The rows of a task: shared out without overlap, drawn before they cost anything, bad ones counted."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from farss.config import Recipe
from farss.datasets.holding_out import held_out
from farss.errors import DataError
from farss.experiment import materials
from farss.experiment.showing import show_rows
from farss.experiment.task_rows import held_out_portion, training_portion


def pair(number: int) -> dict[str, Any]:
    return {"prompt": f"What is {number} and one?", "completion": f"It is {number + 1}."}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def recipe(file: Path, **data: Any) -> Recipe:
    return Recipe().override({"data.task": str(file), **{f"data.{name}": value for name, value in data.items()}})


def numbers(portion) -> set[int]:
    return {row.number for row in portion.rows}


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


@pytest.mark.case("one file as data")
@pytest.mark.parametrize("rows", [2, 24, 400])
def test_one_file_is_divided_and_no_row_is_trained_on_and_measured(tmp_path, rows):
    asked = recipe(write(tmp_path / "a.jsonl", [pair(i) for i in range(rows)]))
    trained, measured = training_portion(asked), held_out_portion(asked)
    assert numbers(trained) | numbers(measured) == set(range(1, rows + 1)) and not numbers(trained) & numbers(measured)
    assert numbers(measured) and trained.account.held_out == len(measured.rows) == measured.account.used
    assert rows < 400 or 0.05 < len(measured.rows) / rows < 0.15
    assert trained.account.used == len(trained.rows) and trained.account.sha256 != measured.account.sha256


@pytest.mark.case("one file as data")
def test_rows_added_later_move_none(tmp_path):
    before = held_out_portion(recipe(write(tmp_path / "a.jsonl", [pair(i) for i in range(100)])))
    grown = [pair(i) for i in range(200, 300)] + [pair(i) for i in range(100)]
    after = held_out_portion(recipe(write(tmp_path / "b.jsonl", grown), seed=5))
    assert {row.question for row in before.rows} <= {row.question for row in after.rows}


def test_rows_that_ask_the_same_stay_together():
    questions = [f"question {i % 40}" for i in range(200)]
    out = held_out(questions, 0.2, "set")
    assert len({(question, held) for question, held in zip(questions, out, strict=True)}) == 40


@pytest.mark.parametrize(("share", "trains", "measures"), [(0.0, True, False), (1.0, False, True), (0.5, True, True)])
def test_the_share_may_be_all_or_nothing(tmp_path, share, trains, measures):
    asked = recipe(write(tmp_path / "a.jsonl", [pair(i) for i in range(30)]), held_out=share)
    for wanted, portion in ((trains, training_portion), (measures, held_out_portion)):
        if wanted:
            assert portion(asked).rows
        else:
            with pytest.raises(DataError, match="held out"):
                portion(asked)


@pytest.mark.case("one file as data")
@pytest.mark.parametrize("count", [1, 2])
def test_a_single_question_is_trained_on_and_not_measured(tmp_path, count):
    asked = recipe(write(tmp_path / "a.jsonl", [pair(1)] * count))
    with pytest.warns(UserWarning, match="only question is trained on"):
        portion = training_portion(asked)
    assert len(portion.rows) == count and portion.account.held_out == 0
    with pytest.raises(DataError, match="too few rows to hold some out"):
        held_out_portion(asked)


def test_a_file_of_held_out_rows_is_measured_whole_and_not_trained_on(tmp_path):
    test = write(tmp_path / "test.jsonl", [pair(i) for i in range(5)])
    asked = recipe(write(tmp_path / "a.jsonl", [pair(i) for i in range(20)]), test=str(test))
    assert numbers(training_portion(asked)) == set(range(6, 21)) and len(held_out_portion(asked).rows) == 5
    assert training_portion(asked).account.held_out == 5


@pytest.mark.case("one bad row")
def test_a_bad_row_is_refused_by_its_number_or_skipped_and_counted(tmp_path, tiny_tokenizer):
    rows = [pair(i) for i in range(12)]
    rows[4] = {"prompt": "What?", "completion": None}
    rows[7] = {"prompt": "What now?", "completion": " \n"}
    file = write(tmp_path / "a.jsonl", rows)
    for number, what in ((5, "lacks a text field"), (8, "empty response")):
        with pytest.raises(DataError, match=rf"{what}[\s\S]*row {number}[\s\S]*on-bad-row skip"):
            materials.training_set(recipe(file, held_out=0), tiny_tokenizer)
        rows[number - 1] = pair(100 + number)
        write(file, rows)
    rows[4], rows[7] = {"prompt": "What?", "completion": None}, {"prompt": "What now?", "completion": ""}
    found = materials.training_set(recipe(write(file, rows), held_out=0, on_bad_row="skip"), tiny_tokenizer)
    assert len(found.examples) == found.account.used == 10 and found.account.bad == 2
    assert "row 5" in str(found.account.first_bad) and {row.number for row in found.rows} == {*range(1, 13)} - {5, 8}


@pytest.mark.case("one bad row")
def test_a_row_that_the_chat_template_refuses_is_named(tmp_path, tiny_tokenizer):
    template = tmp_path / "strict.jinja"
    template.write_text(
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
        "{{ m.content }}{{ eos_token }}{% endfor %}",
        encoding="utf-8",
    )
    talk = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    rows = [{"messages": talk}, {"messages": [{"role": "system", "content": "s"}, *talk]}, {"messages": talk}]
    asked = recipe(write(tmp_path / "a.jsonl", rows), held_out=0, template=str(template))
    with pytest.raises(DataError, match=r"refuses the row[\s\S]*row 2[\s\S]*no system here"):
        materials.training_set(asked, tiny_tokenizer)
    skipping = asked.override({"data.on_bad_row": "skip"})
    assert materials.training_set(skipping, tiny_tokenizer).account.bad == 1


@pytest.mark.case("answers cut short are counted")
def test_rows_cut_and_left_out_are_in_the_account(tmp_path, tiny_tokenizer):
    rows = [{"text": "x" * length} for length in (5, 20, 30)] + [{"prompt": "y" * 20, "completion": "z"}]
    asked = recipe(write(tmp_path / "a.jsonl", rows), held_out=0, max_length=10, template="none")
    account = materials.training_set(asked, tiny_tokenizer).account.summary()
    assert (account["read"], account["used"], account["cut"], account["left_out"]) == (4, 3, 2, 1)


@pytest.mark.case("fields dropped in silence")
def test_unknown_fields_are_named_once_with_their_count(tmp_path):
    rows = [pair(i) | ({"source": "web"} if i < 3 else {}) for i in range(10)]
    file = write(tmp_path / "a.jsonl", rows)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        account = training_portion(recipe(file, held_out=0)).account
    assert account.unused_fields == {"source": 3}
    assert [str(w.message) for w in caught if "nothing reads" in str(w.message)] == [
        f"{file}: fields that nothing reads, with their rows: source (3)"
    ]


class Counting:
    """A tokenizer that counts its calls and texts."""

    def __init__(self, tokenizer):
        self.tokenizer, self.calls, self.texts = tokenizer, 0, 0

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def __call__(self, texts, **more):
        self.calls, self.texts = self.calls + 1, self.texts + len(texts)
        return self.tokenizer(texts, **more)


@pytest.mark.case("cost grows with what is used")
def test_only_what_is_drawn_is_tokenised(tmp_path, tiny_tokenizer):
    tokenizer = Counting(tiny_tokenizer)
    file = write(tmp_path / "a.jsonl", [pair(i) for i in range(3000)])
    found = materials.calibration_set(recipe(file, template="none"), tokenizer, 16)
    assert len(found.rows) == tokenizer.texts == 16 and tokenizer.calls == 1
    trained = training_portion(recipe(file)).rows
    assert not {trained[i].number for i in found.places} & numbers(held_out_portion(recipe(file)))


def test_for_a_row_that_does_not_fit_another_is_drawn(tmp_path, tiny_tokenizer):
    rows = [pair(i) if i % 2 else {"prompt": "y" * 50 + str(i), "completion": "z"} for i in range(60)]
    asked = recipe(write(tmp_path / "a.jsonl", rows), held_out=0, max_length=45, template="none")
    found = materials.calibration_set(asked, tiny_tokenizer, 20)
    assert len(found.rows) == len(set(found.places)) == 20 and all(place % 2 == 1 for place in found.places)


def test_all_rows_are_calibrated_on_where_fewer_are_there(tmp_path, tiny_tokenizer):
    asked = recipe(write(tmp_path / "a.jsonl", [pair(i) for i in range(8)]), held_out=0, template="none")
    found = materials.calibration_set(asked, tiny_tokenizer, 20)
    assert found.first(20) == materials.training_set(asked, tiny_tokenizer).examples


def test_rows_are_shown_with_what_is_learned(tmp_path, tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(materials, "tokenizer_of", lambda recipe: tiny_tokenizer)
    talk = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    asked = recipe(write(tmp_path / "a.jsonl", [{"messages": talk * 2, "id": i} for i in range(3)]), held_out=0)
    shown = show_rows(asked, 2)
    assert json.loads(json.dumps(shown)) == shown and len(shown["rows"]) == 2 and shown["template"] == "chat"
    row = shown["rows"][1]
    assert (row["number"], row["form"], row["unused_fields"]) == (2, "messages", ["id"])
    assert [part["text"] for part in row["parts"] if part["learned"]] == ["a\n<eos>", "a\n<eos>"]
    assert "".join(part["text"] for part in row["parts"]) == row["text"]
    assert shown["counts"]["unused_fields"] == {"id": 3}
