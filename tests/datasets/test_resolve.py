"""Names to rows: where they are looked for, and what damaged or missing data says."""

from __future__ import annotations

import csv
import gzip
import json

import pytest

from farss.datasets import describe, load_rows
from farss.datasets.catalogue import CATALOGUE
from farss.datasets.resolve import has_split
from farss.errors import DataError

ROWS = [{"question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(20)]


def write_lines(path, rows=ROWS):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def write_csv(path):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["question", "answer"])
        writer.writeheader()
        writer.writerows(ROWS)


def write_parquet(path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS), path)


WRITERS = {
    "a.jsonl": write_lines,
    "a.jsonl.gz": write_lines,
    "a.json": lambda path: path.write_text(json.dumps(ROWS), encoding="utf-8"),
    "a.csv": write_csv,
    "a.parquet": write_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_an_explicit_file_of_every_kind(tmp_path, name):
    WRITERS[name](tmp_path / name)
    assert load_rows(str(tmp_path / name), "train") == ROWS


@pytest.mark.parametrize("name", WRITERS)
def test_a_missing_file_is_said_to_be_missing(tmp_path, name):
    with pytest.raises(DataError, match="does not exist"):
        load_rows(str(tmp_path / name), "train")


def test_a_damaged_file_of_every_kind_is_a_data_error_with_its_name(tmp_path):
    damaged = {
        "a.jsonl": b'{"question": "a"}\n{"question": \n',
        "b.jsonl.gz": gzip.compress(b'{"question": "a"}\n' * 999)[:40],
        "c.jsonl.gz": b"not gzip at all",
        "d.json": b'[{"a": 1}, {"b"',
        "e.json": b'{"people": [{"a": 1}], "places": [{"b": 1}]}',
        "f.csv": b"question,answer\nonly one\n",
        "g.parquet": b"PAR1 nothing",
        "h.jsonl": b'{"a": "\xff\xfe"}\n',
        "i.jsonl": b'["a", "list"]\n',
    }
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError) as caught:
            load_rows(str(tmp_path / name), "train")
        assert name in str(caught.value)


def test_a_bad_line_is_named_with_its_number(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n{"a": \n', encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.jsonl, line 3"):
        load_rows(str(path), "train")


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_refused(tmp_path, content):
    (tmp_path / "a.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match="no rows"):
        load_rows(str(tmp_path / "a.jsonl"), "train")


def test_an_unknown_kind_of_file_is_refused(tmp_path):
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"unknown kind[\s\S]*save it as CSV"):
        load_rows(str(tmp_path / "a.xlsx"), "train")


def test_a_byte_order_mark_is_no_part_of_the_first_field(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfquestion,answer\na,b\n")
    assert load_rows(str(tmp_path / "a.csv"), "train") == [{"question": "a", "answer": "b"}]


@pytest.mark.parametrize(
    ("split", "file"),
    [("test", "test"), ("test", "dev"), ("test", "facts"), ("test", "test_1k"), ("train", "train_slice"),
     ("train", "train_9k"), ("validation", "dev"), ("odd_name", "odd_name")],
)  # fmt: skip
def test_split_names_of_the_data_directory(tmp_path, split, file):
    write_lines(tmp_path / "mine" / f"{file}.jsonl.gz")
    assert load_rows("mine", split, data_dir=tmp_path) == ROWS


def test_the_split_of_the_very_name_wins(tmp_path):
    write_lines(tmp_path / "mine" / "dev.jsonl.gz", ROWS[:3])
    write_lines(tmp_path / "mine" / "test.jsonl.gz", ROWS[3:5])
    assert load_rows("mine", "test", data_dir=tmp_path) == ROWS[3:5]
    assert load_rows("mine", "dev", data_dir=tmp_path) == ROWS[:3]


def test_train_never_falls_back_to_test(tmp_path):
    write_lines(tmp_path / "mine" / "test.jsonl.gz")
    with pytest.raises(DataError, match="no split `train`") as caught:
        load_rows("mine", "train", data_dir=tmp_path)
    assert "got: test" in str(caught.value)


def test_the_data_directory_comes_before_the_embedded_set(tmp_path):
    write_lines(tmp_path / "word_problems" / "train.jsonl.gz")
    assert load_rows("word_problems", "train", data_dir=tmp_path) == ROWS
    assert len(load_rows("word_problems", "train")) == 2400
    assert len(load_rows("facts", "test", data_dir=tmp_path)) >= 600


def test_a_folder_of_our_layout_named_outright(tmp_path):
    write_lines(tmp_path / "mine" / "train_slice.jsonl.gz")
    assert load_rows(str(tmp_path / "mine"), "train") == ROWS


def test_a_folder_with_a_plain_file_for_each_split(tmp_path):
    write_lines(tmp_path / "mine" / "train.jsonl")
    write_lines(tmp_path / "mine" / "test.jsonl", ROWS[:2])
    assert load_rows(str(tmp_path / "mine"), "train") == ROWS
    assert load_rows(str(tmp_path / "mine"), "test") == ROWS[:2]
    with pytest.raises(DataError, match="no split `validation`"):
        load_rows(str(tmp_path / "mine"), "validation")


def test_short_names_become_hub_ids(monkeypatch):
    asked = []

    def fake(repository, configuration, split):
        asked.append((repository, configuration, split))
        return ROWS

    monkeypatch.setattr("datasets.load_dataset", fake)
    assert load_rows("gsm8k", "test") == ROWS
    load_rows("trivia_qa", "test")
    load_rows("somebody/something", "test")
    assert asked == [
        ("openai/gsm8k", "main", "test"),
        ("mandarjoshi/trivia_qa", "rc.nocontext", "validation"),
        ("somebody/something", None, "test"),
    ]


def test_without_network_the_error_says_where_it_looked(tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(DataError) as caught:
        load_rows("gsm8k", "test", data_dir=tmp_path)
    for part in ("data directory", "embedded", "openai/gsm8k", "Couldn't reach", "--data-dir"):
        assert part in str(caught.value)


def test_a_misspelt_name_is_not_looked_up_but_corrected():
    with pytest.raises(DataError, match="did you mean `word_problems`"):
        load_rows("word_problem", "test")


def test_a_missing_data_directory_is_refused(tmp_path):
    with pytest.raises(DataError, match="data directory does not exist"):
        load_rows("gsm8k", "test", data_dir=tmp_path / "nowhere")


def test_limits_with_and_without_seed(tmp_path):
    path = str(write_lines(tmp_path / "a.jsonl"))
    assert load_rows(path, "train", limit=3) == ROWS[:3]
    sample = load_rows(path, "train", limit=5, seed=1)
    assert sample == load_rows(path, "train", limit=9, seed=1)[:5] != ROWS[:5]
    assert sample != load_rows(path, "train", limit=5, seed=2)
    assert load_rows(path, "train", limit=99) == ROWS
    with pytest.raises(DataError, match="at least 1"):
        load_rows(path, "train", limit=0)


def test_which_sets_have_a_split_of_their_own(tmp_path):
    write_lines(tmp_path / "popqa" / "test_1k.jsonl.gz")
    assert not has_split("popqa", "train", data_dir=tmp_path) and has_split("popqa", "test", data_dir=tmp_path)
    assert has_split("trivia_qa", "train") and not has_split("popqa", "train") and not has_split("a.jsonl", "train")


def test_describe_has_one_line_for_every_known_set():
    rows = describe()
    assert [row["name"] for row in rows] == list(CATALOGUE)
    assert {row["kind"] for row in rows} == {"knowledge", "task", "classification"}
    assert all("\n" not in row["summary"] and row["splits"] for row in rows)


def test_every_embedded_split_that_is_described_loads():
    for row in describe():
        if row["source"] == "embedded" and row["name"] in ("facts", "word_problems"):
            assert all(load_rows(row["name"], split) for split in row["splits"].split())
