"""What a run is said to take: more for more work, less for what is done, and corrected by the pace so far."""

from __future__ import annotations

import gzip

import pytest

from farss.config import Recipe
from farss.experiment.runs import outlook
from farss.experiment.runs.outlook import BASE, PLANS, Remaining, work_of
from farss.experiment.runs.recipes import find_recipe
from farss.model.arithmetic import Arithmetic

DECIDED = Arithmetic("bfloat16", "float32", "float32", "a processor", "a test says so")


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.setattr(outlook, "stored_numbers", lambda folder: 10**8)
    monkeypatch.setattr(outlook, "resolve", lambda name, revision: name)
    monkeypatch.setattr(outlook, "speed_of", lambda dtype, device: 100.0)
    return Recipe.from_yaml(find_recipe("demo"))


def test_every_part_of_a_run_has_work(recipe):
    work = work_of(recipe)
    assert {PLANS, BASE} < set(work) and len(work) == 2 + len(recipe.methods)
    assert all(part.tokens > 0 for part in work.values())
    full, lora = (next(part for name, part in work.items() if name.startswith(kind)) for kind in ("full", "lora"))
    assert full.tokens > lora.tokens > work[BASE].tokens


@pytest.mark.parametrize("more", [{"data.train_rows": 400}, {"eval.knowledge_rows": 300}, {"eval.frontier_rows": 400}])
def test_more_to_do_takes_longer(recipe, more):
    def total(asked):
        return sum(Remaining(asked, DECIDED, 1).seconds.values())

    assert total(recipe.override(more)) > 1.05 * total(recipe)


def test_answers_to_benchmarks_take_time(recipe, tmp_path):
    asked = recipe.override({"data.data_dir": str(tmp_path), "eval.benchmarks": ["humaneval"], "eval.task_rows": 900})
    file = tmp_path / "humaneval" / "test.jsonl.gz"
    file.parent.mkdir()

    def tokens(rows):
        with gzip.open(file, "wt") as out:
            out.write("{}\n" * rows)
        return work_of(asked)[BASE].tokens

    assert tokens(100) - tokens(40) == pytest.approx(60 * recipe.eval.max_new_tokens)


def test_what_is_done_is_not_counted(recipe, capsys):
    everything = list(work_of(recipe))
    assert set(Remaining(recipe, DECIDED, 1, everything[:3]).seconds) == set(everything[3:])
    capsys.readouterr()
    Remaining(recipe, DECIDED, 1, everything)
    assert capsys.readouterr().err == ""


def test_the_first_line_says_what_all_will_take(recipe, capsys):
    alone, shared = (sum(Remaining(recipe, DECIDED, workers).seconds.values()) for workers in (1, 2))
    assert "in all on this machine" in capsys.readouterr().err.splitlines()[0]
    starts = outlook.STAGE_SECONDS * sum(part.starts for part in work_of(recipe).values())
    assert shared - starts == pytest.approx(2 * (alone - starts))  # each at half the machine's speed


def test_the_rest_follows_the_pace_so_far(recipe, monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(outlook.time, "monotonic", lambda: clock[0])
    remaining = Remaining(recipe, DECIDED, 1)
    remaining.seconds = {"first": 60.0, "second": 30.0}
    clock[0] = 180.0  # three times what was thought
    capsys.readouterr()
    remaining.finished("first")
    assert "about 1 min 30 s left" in capsys.readouterr().err
    remaining.finished("second")
    assert capsys.readouterr().err == ""


def test_rows_of_any_form_have_a_length(recipe):
    rows = [{"messages": [{"role": "user", "content": "x" * 30}]}, {"prompt": "y" * 30}]
    assert outlook._tokens(rows) * outlook.CHARACTERS_PER_TOKEN == pytest.approx((30 + 4 + 30) / 2)
