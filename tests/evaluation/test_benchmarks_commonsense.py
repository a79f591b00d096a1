"""The commonsense sets: rows are read, options are found in words, and the likeliest is chosen."""

from __future__ import annotations

import gzip
import json

import pytest

from farss.datasets.files import read_rows
from farss.errors import DataError
from farss.evaluation.backends import TorchBackend
from farss.evaluation.benchmarks.base import BenchmarkRun
from farss.evaluation.benchmarks.commonsense import BENCHMARKS, PROMPT, SENTENCE, SETS, ask, chosen_in_words, item

ROWS = [
    {"instruction": f"Is {number} even?\n\nAnswer format: true/false", "answer": answer}
    for number, answer in ((2, "true"), (3, "false"), (44, "true"))
]


@pytest.fixture
def run(tiny_llama, tiny_tokenizer, tmp_path):
    file = tmp_path / "commonsense" / "boolq" / "test.jsonl.gz"
    file.parent.mkdir(parents=True)
    with gzip.open(file, "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in ROWS)
    return BenchmarkRun(TorchBackend(tiny_llama, tiny_tokenizer), tmp_path, None)


ANSWERS = tuple(f"answer{number}" for number in range(1, 5))


@pytest.mark.parametrize(
    ("text", "options", "chosen"),
    [
        ("the correct answer is true", ("true", "false"), "true"),
        ("not answer3 but answer1", ANSWERS, "answer3"),
        ("answer5, or answer1", ANSWERS, "answer5"),  # as published, although there are four
        ("untrue", ("true", "false"), "true"),  # as published
        ("Answer1", ANSWERS, None),
        ("", ("solution1", "solution2"), None),
        ("b", ("a", "b"), "b"),
    ],
)
def test_the_first_name_of_an_option_counts(text, options, chosen):
    assert chosen_in_words(text, options) == chosen


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Is it?", "answer": "true"},
        {"instruction": "Is it?\n\nAnswer format: true/false", "answer": "maybe"},
        {"instruction": "Is it?\n\nAnswer format: true", "answer": "true"},
        {"instruction": "Is it?\n\nAnswer format: true/true", "answer": "true"},
        {"instruction": "Is it?\n\nAnswer format: true/false"},
        {"answer": "true"},
    ],
)
def test_a_row_in_another_form_is_named(row):
    with pytest.raises(DataError, match=r"not in the instruction form[\s\S]*boolq, row 7"):
        item(row, "boolq, row 7")


@pytest.mark.parametrize("name", SETS)
def test_every_row_of_every_file_is_read(shared_data, name):
    (benchmark,) = (one for one in BENCHMARKS if one.name == f"commonsense_{name}")
    (stem,) = benchmark.files
    rows = read_rows(shared_data / f"{stem}.jsonl.gz")
    items = [item(row, str(number)) for number, row in enumerate(rows)]
    for row, one in zip(rows, items, strict=True):
        assert row["output"] == SENTENCE.format(one.gold)
        assert chosen_in_words(row["output"], one.options) == one.gold
        assert row["instruction"].endswith("/".join(one.options))
        if name != "boolq":  # whose options are not listed above the format
            named = row["instruction"].rpartition("Answer format")[0]
            assert all(f"{option.capitalize()}:" in named for option in one.options)
    assert {one.gold for one in items} >= set(items[0].options)


def test_answers_in_words_are_scored_by_the_published_rule(run, monkeypatch):
    asked = {}

    def generate(self, prompts, **options):
        asked.update(options, prompts=prompts)
        return [" the correct answer is true", "true, not false", "yes"]

    monkeypatch.setattr(TorchBackend, "generate", generate)
    result = ask(run, "boolq")
    assert [sample.right["words"] for sample in result.samples] == [True, False, False]
    assert [sample.details["chosen"] for sample in result.samples] == ["true", "true", None]
    assert result.scores["accuracy/words"]["value"] == pytest.approx(1 / 3)
    assert result.scores["accuracy/words"]["n"] == 3
    assert asked["prompts"][0] == PROMPT.format(ROWS[0]["instruction"])
    assert asked["max_new_tokens"] == 32
    json.dumps([sample.to_mapping() for sample in result.samples])


def test_the_prompt_is_the_published_one():
    lines = PROMPT.format("Q").split("\n")
    assert lines[0].endswith("completes the request. ")
    assert lines[1:] == ["", f"{' ' * 16}### Instruction:", f"{' ' * 16}Q", "", f"{' ' * 16}### Response:", " " * 16]


def test_the_likeliest_option_is_that_of_a_plain_forward_pass(run, tiny_llama, tiny_tokenizer, by_hand):
    result = ask(run, "boolq")
    for row, sample in zip(ROWS, result.samples, strict=True):
        context = tiny_tokenizer(PROMPT.format(row["instruction"]))["input_ids"]
        totals = {}
        for option in ("true", "false"):
            target = tiny_tokenizer(SENTENCE.format(option))["input_ids"]
            totals[option] = sum(by_hand(tiny_llama, context, target)[0])
        assert sample.details["likeliest"] == max(totals, key=totals.__getitem__)
        assert sample.right["likelihood"] == (sample.details["likeliest"] == row["answer"])


def test_limit_and_progress(run):
    seen = []
    limited = BenchmarkRun(run.backend, run.data_dir, 2, progress=lambda *done: seen.append(done))
    assert len(ask(limited, "boolq").samples) == 2
    assert seen[-1] == (4, 4) and [done for done, _ in seen] == sorted(done for done, _ in seen)
    with pytest.raises(DataError, match="does not exist"):
        ask(run, "piqa")
