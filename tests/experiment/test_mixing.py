"""Several sets trained on together: from each so many rows, from each rows held out, none trained on and measured."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from farss.config import Recipe
from farss.errors import ConfigError, DataError
from farss.experiment.task_rows import divided_portions, held_out_portion, training_portion
from farss.model.encoding import Limit


def pairs(what: str, count: int) -> list[dict[str, str]]:
    return [{"prompt": f"What {what} is number {i}?", "completion": f"{what} {i}"} for i in range(count)]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def mixed(task: str, *mix: dict[str, Any], **data: Any) -> Recipe:
    more = {f"data.{name}": value for name, value in data.items()}
    return Recipe().override({"data.task": task, "data.mix": list(mix), **more})


def asked(portion) -> list[str]:
    return [row.question for row in portion.rows]


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def files(tmp_path):
    """Three files of which the last asks in columns of its own names."""
    colours = write(tmp_path / "colours.jsonl", pairs("colour", 40))
    towns = write(tmp_path / "towns.jsonl", pairs("town", 60))
    rows = [{"ticket": row["prompt"], "reply": row["completion"]} for row in pairs("bird", 30)]
    return colours, towns, write(tmp_path / "birds.jsonl", rows)


BIRDS = {"columns": {"prompt": "ticket", "completion": "reply"}}


@pytest.mark.case("several data sets")
def test_rows_of_every_set_are_trained_on_and_rows_of_every_set_are_measured(files):
    colours, towns, birds = files
    recipe = mixed(colours, {"name": towns, "rows": 10}, {"name": birds, **BIRDS})
    trained, measured = training_portion(recipe), held_out_portion(recipe)
    assert not set(asked(trained)) & set(asked(measured))
    for portion in (trained, measured):
        sets = portion.account.summary()["sets"]
        assert [part["set"] for part in sets] == [colours, towns, birds] and all(part["used"] for part in sets)
        assert sum(part["used"] for part in sets) == portion.account.used == len(portion.rows)
        assert sum(part["held_out"] for part in sets) == portion.account.held_out == len(measured.rows)
    assert [part["used"] for part in trained.account.summary()["sets"]][1] == 10
    assert {row.set for row in measured.rows[:3]} == {colours, towns, birds}  # a limit takes of each
    assert asked(training_portion(recipe)) == asked(trained)


@pytest.mark.case("several data sets")
def test_what_one_set_holds_out_is_trained_on_from_no_other(files, tmp_path):
    colours, _, _ = files
    out = [row.row for row in held_out_portion(mixed(colours)).rows]
    other = write(tmp_path / "folder.jsonl", [*out, *pairs("fish", 20)])
    tests = tmp_path / "set"
    tests.mkdir()
    write(tests / "train.jsonl", [*out, *pairs("fish", 20)])
    write(tests / "test.jsonl", pairs("fish", 3))
    for name in (other, str(tests)):
        recipe = mixed(colours, {"name": name})
        trained, measured = training_portion(recipe), held_out_portion(recipe)
        assert not set(asked(trained)) & set(asked(measured))
        assert trained.account.summary()["sets"][1]["held_out"] >= len(out)
    assert sum(row.set.endswith("split test") for row in measured.rows) == 3  # its own rows to measure, all of them


@pytest.mark.case("several data sets")
def test_rows_that_sets_have_in_common_are_counted(files, tmp_path):
    colours, _, _ = files
    again = write(tmp_path / "again.jsonl", [*pairs("colour", 12), *pairs("fish", 5)])
    trained = training_portion(mixed(colours, {"name": again}, held_out=0))
    first, second = trained.account.summary()["sets"]
    assert (first["repeated"], second["repeated"], trained.account.repeated) == (0, 12, 12)
    with pytest.warns(match=r"12 of 57 rows ask what a row of an earlier set asks"):
        trained.account.finish(Limit(100))


def test_named_held_out_rows_are_trained_on_from_no_set(files, tmp_path):
    colours, towns, _ = files
    test = write(tmp_path / "test.jsonl", [*pairs("colour", 3), *pairs("town", 4)])
    recipe = mixed(colours, {"name": towns}, test=test)
    assert len(held_out_portion(recipe).rows) == 7
    trained = training_portion(recipe)
    assert len(trained.rows) == 37 + 56 and [p["held_out"] for p in trained.account.summary()["sets"]] == [3, 4]


def test_nothing_is_held_out_of_a_mixture_if_nothing_is_to_be(files):
    recipe = mixed(files[0], {"name": files[1]}, held_out=0)
    assert len(training_portion(recipe).rows) == 100
    with pytest.raises(DataError, match="no row is held out"):
        held_out_portion(recipe)


def test_rows_that_choose_between_trials_are_of_the_task_and_trained_on_nowhere(files, tmp_path):
    colours = files[0]
    both = write(tmp_path / "both.jsonl", [*pairs("colour", 40), *pairs("town", 60)])
    recipe = mixed(colours, {"name": both}).override({"select": "validation", "validation_rows": 5})
    trained, chosen = divided_portions(recipe)
    assert {row.set for row in chosen.rows} == {colours} and trained.account.validation == 5
    assert not set(asked(chosen)) & {*asked(trained), *asked(held_out_portion(recipe))}


def test_the_number_of_training_rows_is_the_tasks(files):
    recipe = mixed(files[0], {"name": files[1], "rows": 7}, train_rows=20)
    assert [part["used"] for part in training_portion(recipe).account.summary()["sets"]] == [20, 7]


@pytest.mark.parametrize(
    ("mix", "error", "what"),
    [
        ({"name": "towns", "rows": 61}, DataError, "fewer rows than are to be mixed"),
        ({"name": "towns", "rows": 0}, DataError, "at least 1"),
        ({"name": "colours"}, ConfigError, "comes twice"),
        ({"rows": 3}, ConfigError, "no name"),
        ({"name": "nowhere"}, DataError, "does not exist"),
        ({"name": "towns", "weight": 2}, ConfigError, "unknown key"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(files, tmp_path, mix, error, what):
    if "name" in mix:
        mix = mix | {"name": str(tmp_path / f"{mix['name']}.jsonl")}
    with pytest.raises(error, match=what):
        training_portion(mixed(files[0], mix))


def test_a_set_alone_is_accounted_for_as_ever(files):
    summary = training_portion(mixed(files[0])).account.summary()
    assert "sets" not in summary and "repeated" not in summary
