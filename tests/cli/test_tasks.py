"""`farss tasks`: every name with its kind, the rows that a data directory has, and no benchmark split left out."""

from __future__ import annotations

import gzip
import json
import re

import pytest

from farss.datasets.files import read_rows
from farss.experiment.listing import list_tasks

ASKED = re.compile(r"(test|validation|dev|facts)")
"""How the file of a split begins that a benchmark asks."""

NOT_ASKED = {
    "glue/stsb/test": "the validation split of GLUE is what is scored; the other tasks' test splits have no labels",
    "mbpp/validation": "the paper's own split for choosing settings; the test split is asked",
    "mmlu/validation": "for choosing settings; lm-eval asks the test split with examples of the dev split",
    "wikitext2/validation_tokens": "the token form, with rare words replaced: text for statistics, not for perplexity",
}


@pytest.fixture
def data(tmp_path):
    for stem, count in {"arc_easy/train": 2, "arc_easy/test": 3, "trivia_qa/dev": 4, "mbpp/test": 1}.items():
        file = tmp_path / f"{stem}.jsonl.gz"
        file.parent.mkdir(exist_ok=True)
        with gzip.open(file, "wt") as opened:
            opened.write("".join(json.dumps({"n": n}) + "\n" for n in range(count)) + "\n")
    return tmp_path


def test_every_kind_is_listed(farss):
    code, text, _ = farss("tasks", "--json")
    rows = {row["name"]: row for row in json.loads(text)}
    kinds = {name: rows[name]["kind"] for name in ("facts", "gsm8k", "humaneval", "lm-eval:mmlu", "lm-eval:gsm8k")}
    assert code == 0 and list(kinds.values()) == ["knowledge", "task", "benchmark", "lm-eval", "lm-eval"]
    assert all(set(row) == {"name", "kind", "summary", "splits", "source"} for row in rows.values())
    assert rows["glue/cola"]["kind"] == "classification"
    assert len(rows) == len(json.loads(text))


def test_rows_are_counted_and_missing_files_named(farss, data):
    _, text, _ = farss("tasks", "--data-dir", data, "--json")
    rows = {row["name"]: row["rows"] for row in json.loads(text)}
    assert rows["lm-eval:arc_easy"] == {"arc_easy/train": 2, "arc_easy/test": 3}
    assert rows["trivia_qa"] == {"trivia_qa/train": None, "trivia_qa/dev": 4}
    assert rows["mbpp"] == {"mbpp/test": 1, "mbpp/prompt": None}
    assert rows["facts"] == {}
    code, text, _ = farss("tasks", "--data-dir", data)
    assert code == 0 and "missing" in text and "rows" in text


def test_a_data_directory_that_is_not_there_is_refused(farss, tmp_path):
    code, _, err = farss("tasks", "--data-dir", tmp_path / "nowhere")
    assert code == 2 and "the data directory does not exist" in err


def test_a_damaged_file_is_named(farss, data):
    (data / "arc_easy" / "test.jsonl.gz").write_bytes(b"not gzip")
    code, _, err = farss("tasks", "--data-dir", data)
    assert code == 2 and "the gzip file is damaged" in err and "arc_easy" in err


def test_every_split_that_is_asked_has_a_name(shared_data):
    there = {str(file.relative_to(shared_data)).removesuffix(".jsonl.gz") for file in shared_data.rglob("*.jsonl.gz")}
    asked = {stem for stem in there if ASKED.match(stem.rpartition("/")[2])}
    named = {stem for found in list_tasks(shared_data) for stem in found["rows"]}
    assert len(asked) > 30
    assert asked - named == set(NOT_ASKED)


def test_counts_are_those_of_the_rows(shared_data):
    rows = {row["name"]: row["rows"] for row in list_tasks(shared_data)}
    for stem in ("humaneval/test", "mmlu/dev", "piqa/validation"):
        [count] = {found[stem] for found in rows.values() if stem in found}
        assert count == len(read_rows(shared_data / f"{stem}.jsonl.gz"))
    assert not [
        stem for name, found in rows.items() if name.startswith("lm-eval:") for stem in found if not found[stem]
    ]
