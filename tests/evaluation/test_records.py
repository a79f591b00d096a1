"""Samples survive saving; damaged files are refused."""

from __future__ import annotations

import pytest

from farss.errors import DataError, StorageError
from farss.evaluation.records import KnowledgeSample, Measurement, TaskSample

KNOWLEDGE = [
    KnowledgeSample("facts", "1", "Q: a?\nA:", "Zürich", -1.25, 3, False, True, "Bern", False),
    KnowledgeSample("cloze", "1", "a is", "b", -0.1, 1, True),
]
TASK = [TaskSample("problems", "0", "p", 3.5, 7, "The answer is: 1", True), TaskSample("problems", "1", "q", 2.5, 5)]


def test_saved_samples_load_equal(tmp_path):
    measurement = Measurement(KNOWLEDGE, TASK)
    measurement.save(tmp_path / "a.jsonl.gz")
    measurement.save(tmp_path / "b.jsonl.gz")
    assert Measurement.load(tmp_path / "a.jsonl.gz") == measurement
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_a_file_cut_short_is_refused(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    Measurement(KNOWLEDGE, TASK).save(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StorageError, match="cannot be read"):
        Measurement.load(path)


def test_a_missing_or_strange_file_is_refused(tmp_path):
    with pytest.raises(StorageError):
        Measurement.load(tmp_path / "none.jsonl.gz")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(StorageError):
        Measurement.load(tmp_path / "text")


def test_restriction_keeps_what_all_have():
    whole = Measurement(KNOWLEDGE, TASK)
    part = Measurement(KNOWLEDGE[:1], TASK[1:])
    assert whole.restricted_to([part]) == part
    assert whole.restricted_to([whole, part, Measurement([], TASK)]) == Measurement([], TASK[1:])


def test_task_loss_is_per_token():
    assert Measurement([], TASK).task_loss == pytest.approx(6 / 12)
    with pytest.raises(DataError):
        _ = Measurement(KNOWLEDGE, []).task_loss


def test_right_is_words_before_path():
    assert not KNOWLEDGE[0].right and KNOWLEDGE[1].right


def test_words_with_strange_line_ends_survive(tmp_path):
    words = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\nh\r\ni"
    kept = Measurement([KnowledgeSample("facts", "1", "Q", "A", -1.0, 1, False, None, words, False)], [])
    kept.save(tmp_path / "samples.jsonl.gz")
    assert Measurement.load(tmp_path / "samples.jsonl.gz") == kept
