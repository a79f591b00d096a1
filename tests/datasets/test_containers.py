"""Every container that people keep rows in: read where it is unambiguous, refused with what to do where not."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma

import pytest

from farss.datasets import load_rows
from farss.errors import DataError

ROWS = [{"prompt": f"What is {i} times two?", "completion": f"It is {2 * i}, à peu près"} for i in range(3)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
COLUMNS = json.dumps({key: [row[key] for row in ROWS] for key in ROWS[0]})


def table(mark: str) -> str:
    return mark.join(ROWS[0]) + "\n" + "".join(mark.join(f'"{cell}"' for cell in row.values()) + "\n" for row in ROWS)


TEXTS = {
    "lines.json": LINES,
    "list.jsonl": json.dumps(ROWS, indent=1),
    "one-line-list.jsonl": json.dumps(ROWS),
    "lines.ndjson": LINES,
    "columns.json": COLUMNS,
    "wrapped.json": json.dumps({"version": 2, "data": ROWS}),
    "wrapped-columns.json": json.dumps({"rows": ROWS, "author": "me"}, indent=2),
    "tab.tsv": table("\t"),
    "semicolon.csv": table(";"),
    "tab.csv": table("\t"),
    "UPPER.JSON": LINES,
}


@pytest.mark.case("containers under other endings")
@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("packed", ["", ".gz", ".bz2", ".xz"])
def test_what_a_file_holds_decides_how_it_is_read(tmp_path, name, packed):
    pack = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[packed]
    (tmp_path / (name + packed)).write_bytes(pack(TEXTS[name].encode()))
    assert load_rows(str(tmp_path / (name + packed)), "train") == ROWS


@pytest.mark.case("long cells")
def test_a_cell_may_be_a_long_document(tmp_path):
    (tmp_path / "long.csv").write_text(f"prompt,completion\nWhat?,{'word ' * 60_000}\n", encoding="utf-8")
    assert len(load_rows(str(tmp_path / "long.csv"), "train")[0]["completion"]) == 300_000


def test_one_object_alone_is_one_row(tmp_path):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    for row in ({"messages": turns}, {"messages": turns, "tools": [{"name": "x"}, {"name": "y"}]}, ROWS[0]):
        (tmp_path / "one.json").write_text(json.dumps(row), encoding="utf-8")
        assert load_rows(str(tmp_path / "one.json"), "train") == [row]


@pytest.mark.case("another encoding")
@pytest.mark.parametrize(("encoding", "named"), [("latin-1", "iconv -f LATIN1"), ("utf-16", "iconv -f UTF-16")])
def test_another_encoding_is_refused_with_how_to_convert_it(tmp_path, encoding, named):
    (tmp_path / "a.jsonl").write_bytes(LINES.encode(encoding))
    with pytest.raises(DataError, match=f"not UTF-8[\\s\\S]*{named}"):
        load_rows(str(tmp_path / "a.jsonl"), "train")


@pytest.mark.parametrize("name", ["a.zip", "a.jsonl.zst", "a.txt", "a.pkl", "noending"])
def test_other_kinds_of_file_are_refused_with_what_to_do(tmp_path, name):
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(DataError, match=r"unknown kind[\s\S]*what to do"):
        load_rows(str(tmp_path / name), "train")


def test_a_document_with_several_lists_is_refused_with_their_names(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"left": ROWS, "right": ROWS}), encoding="utf-8")
    with pytest.raises(DataError, match=r"not clear[\s\S]*left, right"):
        load_rows(str(tmp_path / "a.json"), "train")


@pytest.mark.case("folders of save_to_disk")
@pytest.mark.parametrize("splits", [False, True])
def test_a_folder_that_datasets_saved(tmp_path, splits):
    from datasets import Dataset, DatasetDict

    whole = Dataset.from_list(ROWS)
    saved = DatasetDict({"train": whole, "dev": whole.select([0])}) if splits else whole
    saved.save_to_disk(tmp_path / "saved")
    assert load_rows(str(tmp_path / "saved"), "train") == ROWS
    assert load_rows(str(tmp_path / "saved"), "test") == (ROWS[:1] if splits else ROWS)
    assert load_rows(str(tmp_path / "saved" / ("train" if splits else ".")), "train") == ROWS


@pytest.mark.parametrize(
    ("split", "kept"),
    [("train[:2]", [0, 1]), ("train[1:]", [1, 2]), ("train[-1:]", [2]), ("train[:67%]", [0, 1]), ("x[34%:67%]", [1])],
)  # fmt: skip
def test_a_part_of_a_split(tmp_path, split, kept):
    (tmp_path / "a.jsonl").write_text(LINES, encoding="utf-8")
    assert load_rows(str(tmp_path / "a.jsonl"), split) == [ROWS[i] for i in kept]


@pytest.mark.parametrize("split", ["train[", "train[a:b]", "train[%:]", "[:3]"])
def test_a_part_that_cannot_be_read_is_refused(tmp_path, split):
    (tmp_path / "a.jsonl").write_text(LINES, encoding="utf-8")
    with pytest.raises(DataError, match="part of a split"):
        load_rows(str(tmp_path / "a.jsonl"), split)


def test_a_configuration_of_a_hub_set_is_named(monkeypatch):
    asked = []
    monkeypatch.setattr("datasets.load_dataset", lambda *names, split: asked.append((*names, split)) or ROWS)
    assert load_rows("somebody/something", "train[1:]", subset="small") == ROWS[1:]
    assert asked == [("somebody/something", "small", "train")]
