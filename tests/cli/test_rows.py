"""One file from `farss rows` to `farss eval`: shown as it is learned, never measured on what was trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from farss.cli.main import main

ROWS = 24


@pytest.fixture(scope="module")
def file(workshop) -> Path:
    path = workshop.folder / "mine.jsonl"
    rows = [{"ticket": f"No {i}?", "reply": f"Yes {i}.", "source": "x"} for i in range(ROWS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def asking(workshop, file: Path) -> list[str]:
    return ["--model", str(workshop.model), "--data", str(file), "--columns", "prompt=ticket,completion=reply"]


@pytest.mark.case("a verb that shows what was understood")
def test_rows_are_shown_as_they_are_learned(workshop, file, capsys):
    assert main(["rows", *asking(workshop, file), "--rows", "1"]) == 0
    shown = capsys.readouterr().out
    assert "ticket: 'No " in shown and "user: No " in shown and "assistant: \u27e6Yes " in shown
    assert f"{ROWS} rows read" in shown and "nothing reads `source` (24 rows)" in shown
    assert main(["rows", *asking(workshop, file), "--template", "none", "--json", "--test"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["template"] == "none" and told["use"] == "held out" and told["counts"]["held_out"] >= 1
    assert all(row["parts"][-1]["learned"] for row in told["rows"])


@pytest.mark.case("columns of other names")
def test_rows_of_other_names_are_refused_with_the_mapping(workshop, file, capsys):
    assert main(["rows", "--model", str(workshop.model), "--data", str(file)]) == 2
    assert "row 1" in (said := capsys.readouterr().err) and "--columns prompt=COLUMN" in said
    with pytest.raises(SystemExit):
        main(["rows", *asking(workshop, file)[:-1], "prompt"])


@pytest.mark.case("one file as data")
def test_what_was_trained_is_not_measured(workshop, file, capsys):
    place = workshop.folder / "one-file"
    data = [*asking(workshop, file), "--template", "none"]
    assert main(["init", *data, "--method", "lora", "--set", "init.rank=2", "--out", str(place / "init")]) == 0
    trained = ["train", "--init", str(place / "init"), "--set", "train.batch_size=8", "--out", str(place / "trained")]
    assert main(trained) == 0
    columns = ["--columns", "prompt=ticket,completion=reply", "--template", "none"]
    measure = ["eval", "--model", str(workshop.model), "--data", str(file), *columns, "--generate-rows", "0"]
    assert main([*measure, "--out", str(place / "eval")]) == 0
    training = json.loads((place / "trained" / "train.json").read_text())["rows"]
    measured = json.loads((place / "eval" / "results.json").read_text())["rows"]
    assert training["held_out"] == measured["held_out"] == measured["used"] >= 1
    assert training["used"] + measured["used"] == training["read"] == measured["read"] == ROWS
    assert training["unused_fields"] == {"source": ROWS} and training["sha256"] != measured["sha256"]
    assert main([*measure, "--held-out", "0", "--out", str(place / "none")]) == 2
    assert "no row is held out" in capsys.readouterr().err
