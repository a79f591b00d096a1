"""Data files of every hostile kind are refused before a model is loaded, with the file and the row."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from farss.datasets.files import read_rows
from farss.datasets.knowledge import LONGEST_QUESTION
from farss.errors import DataError

GOOD = [json.dumps({"question": f"What is {n}?", "answer": str(n)}) for n in range(8)]
DEEP = "[" * 100_000 + "]" * 100_000


def lines(*last: str) -> bytes:
    return "\n".join([*GOOD, *last]).encode("utf-8")


JSON_LINES = {
    "digits": lines('{"question": "q?", "answer": ' + "9" * 5_000 + "}"),
    "deep": lines('{"question": "q?", "answer": ' + DEEP + "}"),
    "deep objects": lines('{"question": "q?", "answer": ' + '{"a": ' * 5_000 + "1" + "}" * 5_000 + "}"),
    "half a character": lines('{"question": "q \\ud800?", "answer": "a"}'),
    "half a character in a key": lines('{"question": "q?", "answer": "a", "\\udc00": 1}'),
    "a key twice": lines('{"question": "q?", "answer": "a", "answer": "b"}'),
    "a long question": lines(json.dumps({"question": "x" * 300_000, "answer": "a"})),
    "a long answer": lines(json.dumps({"question": "q?", "answer": "x" * 300_000})),
    "one of many long answers": lines(json.dumps({"question": "q?", "answer": ["a", "x" * (LONGEST_QUESTION + 1)]})),
    "escapes in a key": b'{"\x5cu001b[2J\x5cu001b]0;owned\x5cu0007": "q?", "answer": "a"}\n' * 8,
    "escapes in broken JSON": lines('{"question": \x1b[2J'),
    "escapes in a value": lines('{"question": "q?", "answer": {"\\u001b[2J": 1}}'),
    "not an object": lines("[1, 2]"),
    "a number": lines("5"),
    "a question that is a number": lines('{"question": 5, "answer": "a"}'),
    "an answer that is a list of numbers": lines('{"question": "q?", "answer": [1]}'),
    "an empty question": lines('{"question": "", "answer": "a"}'),
    "an empty answer": lines('{"question": "q?", "answer": ""}'),
    "other fields": lines('{"ask": "q?", "say": "a"}'),
    "cut short": lines('{"question": "q?", "ans'),
    "not UTF-8": lines() + b'\n{"question": "\xff\xfe?", "answer": "a"}',
    "UTF-16": lines().decode().encode("utf-16"),
    "NUL bytes": lines() + b"\n\x00\x00\x00",
    "empty": b"",
    "white space": b"\n \n\t\n",
    "binary": bytes(range(256)) * 64,
}
FILES = {
    "a.json": b'{"data": 5}',
    "deep.json": DEEP.encode(),
    "digits.json": b"[" + b"9" * 5_000 + b"]",
    "text.json": b'"only words"',
    "two.json": b'{"data": [{"a": 1}], "rows": [{"a": 1}]}',
    "cells.csv": b"question,answer\nq?,a,b,c\n",
    "quotes.csv": b'question,answer\n"q?,a\n',
    "header.csv": b"\n",
    "nul.csv": b"question,answer\nq\x00?,a\n",
    "rows.tsv": b"question\tanswer\nq?\n",
    "rows.parquet": b"PAR1 no parquet at all PAR1",
    "short.parquet": b"PAR1",
    "empty.parquet": b"",
    "rows.arrow": b"ARROW1 no arrow at all",
    "empty.arrow": b"",
    "rows.jsonl.gz": b"no gzip",
    "cut.jsonl.gz": gzip.compress(lines())[:60],
    "flipped.jsonl.gz": gzip.compress(lines())[:-8] + b"\x00" * 8,
    "rows.jsonl.xz": b"no xz",
    "rows.jsonl.bz2": b"no bz2",
    "rows.pkl": b"\x80\x04.",
    "rows.yaml": b"a: &a [*a]",
    "rows.zip": b"PK\x03\x04",
    "rows.txt": b"words",
    "rows.evil": b"words",
}


def asked(plain: Path, tmp_path: Path, name: object) -> tuple[object, ...]:
    return ("eval", "--model", plain, "--tasks", name, "--out", tmp_path / "out")


@pytest.mark.case("hostile data files end in tracebacks, hangs and requests for 90 GB")
@pytest.mark.parametrize("name", JSON_LINES)
def test_hostile_rows_are_refused(refused, plain, tmp_path, name):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(JSON_LINES[name])
    refused(*asked(plain, tmp_path, path))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", FILES)
def test_hostile_files_are_refused(refused, plain, tmp_path, name):
    (tmp_path / name).write_bytes(FILES[name])
    refused(*asked(plain, tmp_path, tmp_path / name))


@pytest.mark.parametrize("name", JSON_LINES)
def test_hostile_training_rows_are_refused(refused, plain, tmp_path, name):
    if "long" in name or name == "an empty question":
        pytest.skip("training cuts what is longer than data.max_length, and learns answers to nothing")
    path = tmp_path / "rows.jsonl"
    path.write_bytes(JSON_LINES[name])
    refused("init", "--model", plain, "--data", path, "--method", "farss", "--out", tmp_path / "out")


INNER = ["[" * 50_000, "9" * 5_000, "{", '{"name": "a", "name": "b"}']


@pytest.mark.parametrize("text", INNER)
def test_json_inside_of_texts_has_the_same_limits(refused, plain, tmp_path, text):
    said = [{"from": "human", "value": "q?"}, {"from": "function_call", "value": text}, {"from": "gpt", "value": "a"}]
    for name, row in (("tools", {"prompt": "q?", "completion": "a", "tools": text}), ("call", {"conversations": said})):
        path = tmp_path / f"{name}.jsonl"
        path.write_text((json.dumps(row) + "\n") * 8)
        refused("init", "--model", plain, "--data", path, "--method", "farss", "--out", tmp_path / "out")


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".parquet", ".arrow", ".jsonl.gz", ""])
def test_data_that_is_no_file_is_refused(refused, plain, tmp_path, ending):
    path = tmp_path / f"rows{ending}"
    os.mkfifo(path)
    refused(*asked(plain, tmp_path, path))
    refused("init", "--model", plain, "--data", path, "--method", "farss", "--out", tmp_path / "out")
    path.unlink()
    path.symlink_to(path)
    refused(*asked(plain, tmp_path, path))


@pytest.mark.parametrize(
    "name", ["n" * 300, "n/" * 2_500, "a" * 300 + ".jsonl", "no\x1b[2Jset", "\u202etes", "/dev/zero"]
)
def test_names_of_nothing_are_refused(refused, plain, tmp_path, name):
    refused(*asked(plain, tmp_path, name))
    refused("init", "--model", plain, "--data", name, "--method", "farss", "--out", tmp_path / "out")
    refused("eval", "--model", name, "--tasks", "facts", "--out", tmp_path / "out")


def test_saved_folders_name_their_own_splits(tmp_path):
    from farss.datasets.containers import saved_splits

    for content in ("[]", "{", '{"splits": 5}', '{"splits": ["../elsewhere"]}', '{"splits": [5]}', DEEP):
        (tmp_path / "dataset_dict.json").write_text(content)
        with pytest.raises(DataError):
            saved_splits(tmp_path)


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    from farss.datasets import containers

    monkeypatch.setattr(containers, "LONGEST_LINE", 1_000)
    for name, content in (("a.jsonl", lines()), ("b.csv", b"question,answer\nq?,a\n")):
        (tmp_path / name).write_bytes(content + b'"' + b"x" * 2_000)
        with pytest.raises(DataError, match="longer than a row can be"):
            read_rows(tmp_path / name)


def test_the_sound_ones_are_read(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(lines('{"question": "\\ud83d\\ude00", "answer": NaN, "deep": [[[[1]]]]}'))
    assert len(read_rows(tmp_path / "rows.jsonl")) == 9


@pytest.mark.case("a small file that unpacks to a huge one is refused")
def test_what_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    import bz2
    import gzip
    import lzma

    import pyarrow
    import pyarrow.parquet

    from farss.datasets import containers
    from farss.datasets.files import count_rows

    text = (lines().rstrip(b"\n") + b"\n") * 500
    for ending, pack in (("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)):
        (tmp_path / f"rows.jsonl.{ending}").write_bytes(pack(text))
    (tmp_path / "rows.jsonl").write_bytes(text)
    rows = pyarrow.table({"question": ["q?" * 50] * 2_000, "answer": [f"{i}" * 20 for i in range(2_000)]})
    pyarrow.parquet.write_table(rows, tmp_path / "rows.parquet")
    packed = [f"rows.jsonl.{ending}" for ending in ("gz", "bz2", "xz")] + ["rows.parquet"]
    assert all(read_rows(tmp_path / name) for name in packed)
    monkeypatch.setattr(containers, "MOST_UNPACKED", 20_000)
    for name in packed:
        with pytest.raises(DataError, match="unpacks to more than is read of one"):
            read_rows(tmp_path / name)
    with pytest.raises(DataError, match="unpacks to more"):
        count_rows(tmp_path / "rows.jsonl.gz")
    assert read_rows(tmp_path / "rows.jsonl")  # what is not packed is no surprise
