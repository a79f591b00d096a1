"""Rows that choose between trials: apart from training and from every score, and obeyed."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from farss.config import Recipe
from farss.datasets.resolve import load_rows
from farss.errors import ConfigError, DataError
from farss.evaluation.records import Measurement, TaskSample
from farss.experiment import materials
from farss.experiment.jobs import Job, jobs_of, learning_rates_of
from farss.experiment.measuring import VALIDATION
from farss.experiment.runs.assemble import reference_run, selected_trials
from farss.experiment.runs.finished import FinishedJob, FinishedRun
from farss.experiment.task_rows import divided_portions
from farss.experiment.validation import hold_out, require_apart


@dataclass(frozen=True)
class Asked:
    """A row by its question alone."""

    question: str


def divided(chosen: Recipe) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    training, validation = divided_portions(chosen)
    return [row.row for row in training.rows], [row.row for row in validation.rows]


def question(number: int) -> dict[str, Any]:
    return {"question": f"What is {number}?", "answer": f"{number}\n#### {number}"}


def write(folder: Path, **splits: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        with gzip.open(folder / f"{split}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return folder.parent


def recipe(data: Path, **changes: Any) -> Recipe:
    tree = {"data.task": "gsm8k", "data.data_dir": str(data), "select": "validation", "validation_rows": 5, **changes}
    return Recipe().override(tree)


def asked(rows: list[dict[str, Any]]) -> list[str]:
    return [row["question"] for row in rows]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("limit", [None, 4, 12, 40])
def test_rows_held_out_are_apart_and_keep_what_a_limit_gives(tmp_path, seed, limit):
    rows = [question(i % 18) for i in range(20)]  # two questions come twice
    data = write(tmp_path / "gsm8k", train=rows, test=[question(3), question(4), question(50)])
    training, validation = divided(recipe(data, **{"data.train_rows": limit, "data.seed": seed}))
    assert len(validation) == len(set(asked(validation))) == 5
    assert not set(asked(validation)) & {*asked(training), "What is 3?", "What is 4?"}
    assert training == materials.training_rows(recipe(data, **{"data.train_rows": limit, "data.seed": seed}))
    left = [row for row in rows if row["question"] not in asked(validation)]
    if limit is None:
        assert training == left
    else:
        assert len(training) == min(limit, len(left))
    if limit == 4:  # there is room for both
        assert training == load_rows("gsm8k", "train", data_dir=data, limit=4, seed=seed)


def test_other_seeds_hold_out_other_rows(tmp_path):
    data = write(tmp_path / "gsm8k", train=[question(i) for i in range(40)], test=[question(50)])
    chosen = [asked(divided(recipe(data, **{"data.seed": seed}))[1]) for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]


def test_a_validation_split_is_used_and_leaves_training_alone(tmp_path):
    train, own = [question(i) for i in range(9)], [question(i) for i in range(20, 32)]
    data = write(tmp_path / "gsm8k", train=train, validation=own, test=[question(21), question(60)])
    training, validation = divided(recipe(data))
    assert training == train
    assert len(validation) == 5 and set(asked(validation)) <= set(asked(own)) - {"What is 21?"}


def test_a_validation_split_that_is_scored_chooses_nothing(tmp_path):
    """Without a test split the validation split is what is scored."""
    data = write(tmp_path / "gsm8k", train=[question(i) for i in range(9)], validation=[question(30), question(31)])
    training, validation = divided(recipe(data))
    assert len(training) == 4 and len(validation) == 5
    assert set(asked(training)) | set(asked(validation)) == {f"What is {i}?" for i in range(9)}


def test_embedded_problems_have_a_split_of_their_own():
    chosen = Recipe(select="validation").override({"data.train_rows": 20, "validation_rows": 10})
    training, validation = divided(chosen)
    assert len(validation) == 10
    assert training == materials.training_rows(chosen.override({"select": "none"}))


@pytest.mark.parametrize("wanted", [9, 10])
def test_too_few_rows_are_refused(wanted):
    rows = [Asked(str(i)) for i in range(10)]
    if wanted == 9:
        assert len(hold_out(rows, set(), wanted=9, limit=None, seed=0, where="set")[0]) == 1
    else:
        with pytest.raises(DataError, match="lower validation_rows"):
            hold_out(rows, set(), wanted=10, limit=None, seed=0, where="set")


@pytest.mark.case("one file as data")
def test_a_file_without_splits_is_divided_in_three(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{i}?", "completion": "x"}) + "\n" for i in range(30)))
    chosen = Recipe(select="validation").override({"data.task": str(file), "validation_rows": 3})
    uses = [*divided(chosen), materials.held_out_rows(chosen)]
    prompts = [row["prompt"] for rows in uses for row in rows]
    assert len(prompts) == len(set(prompts)) == 30 and len(uses[1]) == 3 and uses[2]


def test_questions_of_two_uses_are_refused():
    require_apart({"a"}, {"b"}, "scored")
    with pytest.raises(DataError, match="validation rows are among the rows that are scored"):
        require_apart({"a", "c"}, {"b", "c"}, "scored")


def sample(prompt: str) -> TaskSample:
    return TaskSample(task="t", id=prompt, prompt=prompt, loss=1.0, tokens=1)


SCORED = Measurement(task=[sample("scored")])


def finished(folder: Path, losses: dict[tuple[str, float, int], float], prompt: str = "held out", **changes: Any):
    """A run whose trials have these validation losses, as `selected_trials` takes it."""
    rates = {name: [r for n, r, s in losses if n == name and s == 0] for name, _, _ in losses}
    changes = {"methods": list(rates), "method_learning_rates": rates, "select": "validation", **changes}
    chosen = Recipe().override({"seeds": sorted({s for _, _, s in losses}), **changes})
    done = []
    for (name, rate, seed), loss in losses.items():
        job = Job(name, rate, seed)
        Measurement(task=[sample(prompt)]).save(folder / job.id / "eval" / VALIDATION)
        done.append(FinishedJob(job, folder / job.id, {"key": job.id}, {"validation_loss": loss}))
    run = FinishedRun(chosen, folder, {}, [], done, [])
    return {job.job.id: (run, job) for job in done}


def test_each_method_and_seed_keeps_its_best_trial(tmp_path):
    losses = {
        ("lora", 1e-4, 0): 2.0, ("lora", 1e-3, 0): 1.0, ("lora", 1e-4, 1): 1.0, ("lora", 1e-3, 1): 2.0,
        ("farss", 1e-4, 0): 3.0, ("farss", 1e-3, 0): 3.0, ("farss", 1e-4, 1): 0.5, ("farss", 1e-3, 1): 0.4,
    }  # fmt: skip
    chosen = selected_trials(finished(tmp_path, losses), SCORED)
    assert set(chosen) == {"lora-lr0.001-seed0", "lora-lr0.0001-seed1", "farss-lr0.0001-seed0", "farss-lr0.001-seed1"}


def test_without_selection_every_trial_is_kept(tmp_path):
    owners = finished(tmp_path, {("lora", 1e-4, 0): 2.0, ("lora", 1e-3, 0): 1.0}, select="none")
    assert selected_trials(owners, SCORED) == list(owners)


def test_a_scored_row_among_the_validation_rows_is_found(tmp_path):
    owners = finished(tmp_path, {("lora", 1e-4, 0): 2.0}, prompt="scored")
    with pytest.raises(DataError, match="validation rows are among the rows that are scored"):
        selected_trials(owners, SCORED)


def test_nothing_is_chosen_of_unfinished_trials(tmp_path):
    owners = finished(tmp_path, {("lora", 1e-4, 0): 2.0, ("lora", 1e-3, 0): 1.0})
    run, _ = owners["lora-lr0.0001-seed0"]
    run.jobs.pop()
    with pytest.raises(DataError, match="unfinished"):
        selected_trials({"lora-lr0.0001-seed0": owners["lora-lr0.0001-seed0"]}, SCORED)


def test_the_measure_of_the_task_is_chosen_by_validation_too(tmp_path):
    owners = finished(tmp_path, {("full", 1e-4, 0): 2.0, ("full", 1e-3, 0): 1.0})
    jobs = {name: job for name, (_, job) in owners.items()}
    held = {"full-lr0.0001-seed0": 0.1, "full-lr0.001-seed0": 0.9}
    measured = {name: Measurement(task=[TaskSample("t", "0", "p", loss, 1)]) for name, loss in held.items()}
    assert reference_run(jobs, measured) == "full-lr0.001-seed0"
    for job in jobs.values():
        job.measured.clear()
    assert reference_run(jobs, measured) == "full-lr0.0001-seed0"


def test_methods_have_learning_rates_of_their_own():
    chosen = Recipe(methods=("full", "lora", "farss"), learning_rates=(1e-5,), full_learning_rates=(2e-5,))
    assert [learning_rates_of(chosen, name) for name in chosen.methods] == [(2e-5,), (1e-5,), (1e-5,)]
    chosen = chosen.override({"method_learning_rates": {"farss": [1e-4, 1e-3], "full": [3e-5]}})
    assert [learning_rates_of(chosen, name) for name in chosen.methods] == [(3e-5,), (1e-5,), (1e-4, 1e-3)]
    assert len(jobs_of(chosen)) == 4


@pytest.mark.parametrize("rates", [{"farrs": [1e-4]}, {"farss": []}, {"farss": [1e-4, 1e-4]}, {"farss": [0.0]}])
def test_impossible_learning_rates_of_a_method_are_refused(rates):
    with pytest.raises(ConfigError, match="fa"):
        jobs_of(Recipe().override({"method_learning_rates": rates}))


def test_the_shuffle_is_that_of_limited_rows():
    rows = [Asked(str(i)) for i in range(11)]
    shuffled = list(rows)
    random.Random(3).shuffle(shuffled)
    assert hold_out(rows, set(), wanted=2, limit=6, seed=3, where="set") == (shuffled[:6], shuffled[:-3:-1])
