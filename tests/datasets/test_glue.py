"""The tasks of GLUE: rows of the data directory, and what is refused."""

from __future__ import annotations

import gzip
import json

import pytest

from farss.datasets.catalogue import CATALOGUE
from farss.datasets.glue import GLUE, glue_rows, glue_task
from farss.errors import ConfigError, DataError

ROWS = {
    "cola": 1043, "sst2": 872, "mrpc": 408, "rte": 277, "qnli": 5463, "stsb": 1500,
}  # fmt: skip
ADVERSARIAL = {"sst2": 148, "qqp": 78, "mnli": 283, "qnli": 148, "rte": 81}


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("name", ROWS)
def test_the_validation_split_is_whole(name, shared_data):
    task = glue_task(name)
    rows = glue_rows(task, "validation", data_dir=shared_data)
    assert len(rows) == ROWS[name] and len({row.id for row in rows}) == len(rows)
    assert all(len(row.texts) == len(task.texts) for row in rows)
    if task.labels:
        assert {row.label for row in rows} == set(range(len(task.labels)))
    else:
        assert min(row.label for row in rows) == 0 and max(row.label for row in rows) == 5


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_rows_have_the_fields_of_the_task(name, shared_data):
    task = glue_task(name)
    rows = glue_rows(task, "adversarial", data_dir=shared_data)
    assert len(rows) == ADVERSARIAL[name] and {row.label for row in rows} == set(range(len(task.labels)))


def test_a_limit_with_a_seed_draws_and_without_takes_the_first(tmp_path):
    write(tmp_path / "glue" / "sst2" / "train_5k.jsonl.gz", [{"sentence": str(i), "label": i % 2} for i in range(20)])
    task = glue_task("sst2")
    first = glue_rows(task, "train", data_dir=tmp_path, limit=5)
    assert [row.texts[0] for row in first] == list("01234") and [row.id for row in first] == list("01234")
    drawn = glue_rows(task, "train", data_dir=tmp_path, limit=5, seed=0)
    assert drawn != first and drawn == glue_rows(task, "train", data_dir=tmp_path, limit=5, seed=0)


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("rte", {"sentence1": "a", "label": 0}, "lacks a text"),
        ("sst2", {"sentence": 5, "label": 0}, "lacks a text"),
        ("sst2", {"sentence": "a", "label": -1}, "no label"),
        ("sst2", {"sentence": "a", "label": 2}, "no label"),
        ("sst2", {"sentence": "a", "label": True}, "no label"),
        ("sst2", {"sentence": "a"}, "no label"),
        ("stsb", {"sentence1": "a", "sentence2": "b", "label": 5.5}, "no label"),
        ("stsb", {"sentence1": "a", "sentence2": "b", "label": "3"}, "no label"),
    ],
)
def test_rows_that_do_not_fit_the_task_are_refused(task, row, message, tmp_path):
    good = {"sentence": "a", "sentence1": "a", "sentence2": "b", "label": 1}
    write(tmp_path / "glue" / task / "train.jsonl.gz", [good, row])
    with pytest.raises(DataError, match=message) as caught:
        glue_rows(glue_task(task), "train", data_dir=tmp_path)
    assert "row 1" in str(caught.value)


def test_what_there_is_not_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown GLUE task `sst-2`") as caught:
        glue_task("sst-2")
    assert "did you mean `sst2`" in str(caught.value)
    write(tmp_path / "adv_glue" / "validation.jsonl.gz", [{"task": "rte", "label": 0}])
    with pytest.raises(DataError, match="no rows of this task"):
        glue_rows(glue_task("cola"), "adversarial", data_dir=tmp_path)


def test_every_task_is_in_the_catalogue_under_the_hubs_name():
    for name in GLUE:
        hub = CATALOGUE[f"glue/{name}"].hub
        assert hub is not None and (hub.repository, hub.configuration) == ("nyu-mll/glue", name)
    assert CATALOGUE["glue/mnli"].hub.splits == {"validation": "validation_matched"}
