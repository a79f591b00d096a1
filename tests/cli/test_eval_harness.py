"""`farss eval` with tasks of lm-eval: beside sets of ours, or alone."""

from __future__ import annotations

import gzip
import json

import pytest

pytest.importorskip("lm_eval")


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data" / "arc_easy"
    folder.mkdir(parents=True)
    labels = ["A", "B"]
    for split in ("train", "test"):
        choices = {"text": ["yes", "no"], "label": labels}
        rows = [{"question": f"Is {n} even?", "choices": choices, "answerKey": labels[n % 2]} for n in range(5)]
        with gzip.open(folder / f"{split}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return tmp_path / "data"


def test_a_task_of_lm_eval_alone(farss, workshop, data, tmp_path):
    out = tmp_path / "results"
    more = ("--data-dir", data, "--task-rows", 4, "--out", out)
    code, text, err = farss("eval", "--model", workshop.model, "--tasks", "lm-eval:arc_easy", *more)
    assert code == 0, err
    assert "lm-eval/arc_easy/acc" in text
    results = json.loads((out / "results.json").read_text())
    assert results["scores"]["lm-eval/arc_easy/acc"]["n"] == 4
    assert results["lm_eval_versions"]["arc_easy"] is not None
    assert len(json.loads((out / "lm-eval-samples.json").read_text())["arc_easy"]) == 4


def test_missing_rows_are_said_before_the_model_is_loaded(farss, workshop, data, tmp_path):
    arguments = ("eval", "--model", workshop.model, "--tasks", "lm-eval:piqa", "--out", tmp_path / "results")
    code, _, err = farss(*arguments, "--data-dir", data)
    assert code == 2 and "piqa/validation" in err
    assert not (tmp_path / "results").exists()


@pytest.fixture
def hub(monkeypatch):
    """What `datasets.load_dataset` gives: ARC, and nothing else."""
    import datasets

    def fetch(path, name=None, **_):
        if path != "allenai/ai2_arc":
            raise ConnectionError(f"{path} cannot be reached")
        choices = {"text": ["yes", "no"], "label": ["A", "B"]}
        rows = [{"question": f"Is {n} even?", "choices": choices, "answerKey": "AB"[n % 2]} for n in range(5)]
        return datasets.DatasetDict({s: datasets.Dataset.from_list(rows) for s in ("train", "validation", "test")})

    monkeypatch.setattr(datasets, "load_dataset", fetch)


def test_without_a_data_directory_tasks_are_lm_evals_own(farss, workshop, hub, tmp_path):
    arguments = ("eval", "--model", workshop.model, "--task-rows", 4, "--out", tmp_path / "results", "--tasks")
    for name, message in {
        "arc_eazy": "did you mean `arc_easy`",
        "ai2_arc": "stands for several tasks",
        "humaneval": "use humaneval or mbpp",
    }.items():
        code, _, err = farss(*arguments, f"lm-eval:{name}")
        assert code == 2 and message in err, err
        assert not (tmp_path / "results").exists()
    code, _, err = farss(*arguments, "lm-eval:arc_easy")
    assert code == 0, err
    assert json.loads((tmp_path / "results" / "results.json").read_text())["scores"]["lm-eval/arc_easy/acc"]["n"] == 4


def test_rows_that_cannot_be_fetched_are_said_before_the_model_is_loaded(farss, workshop, hub, tmp_path):
    arguments = ("eval", "--model", workshop.model, "--tasks", "lm-eval:piqa", "--out", tmp_path / "results")
    code, _, err = farss(*arguments)
    assert code == 2 and "could not be fetched" in err and "--data-dir" in err
    assert not (tmp_path / "results").exists()
