"""Several sets and what is learned of them, said on the command line of every verb that reads rows."""

from __future__ import annotations

import json

import pytest


def write(path, word: str, count: int) -> str:
    rows = [{"prompt": f"{word} {i}?", "completion": f"{word} {i}.", "final": str(i)} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def asked(workshop, tmp_path):
    """A recipe of one set, and flags that mix another with it."""
    settings = {"data.task": write(tmp_path / "one.jsonl", "One", 20), "eval.frontier_scales": [1]}
    recipe = workshop.recipe("mixing", methods=["lora"], **settings)
    two = write(tmp_path / "two.jsonl", "Two", 30)
    return recipe, ("--mix", f"{two}=9", "--learn", "everything", "--too-long", "refuse", "--template", "none")


@pytest.mark.case("several data sets")
def test_a_mixture_is_initialised_trained_and_measured(farss, asked, tmp_path):
    recipe, mixture = asked
    for arguments in (
        ("init", "--recipe", recipe, *mixture, "--method", "lora", "--out", tmp_path / "init"),
        ("train", "--init", tmp_path / "init", "--out", tmp_path / "trained"),
        ("eval", "--recipe", recipe, *mixture, "--data", tmp_path / "one.jsonl", "--out", tmp_path / "scores"),
    ):
        code, _, err = farss(*arguments)
        assert code == 0, err
    trained = json.loads((tmp_path / "trained" / "train.json").read_text(encoding="utf-8"))["rows"]
    measured = json.loads((tmp_path / "scores" / "results.json").read_text(encoding="utf-8"))
    one, two = trained["sets"]
    assert two["used"] == 9 and two["read"] == 30 and trained["used"] == one["used"] + 9 and not trained["cut"]
    assert one["used"] + one["held_out"] == 20 and two["held_out"]
    assert [part["set"][-9:] for part in measured["rows"]["sets"]] == ["one.jsonl", "two.jsonl"]


@pytest.mark.case("several data sets")
def test_a_run_of_a_mixture_reports_it(farss, asked, tmp_path):
    recipe, mixture = asked
    code, _, err = farss("run", recipe, *mixture, "--out", tmp_path / "run")
    assert code == 0, err
    for stage in ("lora-*/train", "lora-*/eval", "base"):
        (done,) = (tmp_path / "run").glob(f"{stage}/done.json")
        assert '"sets"' in done.read_text(encoding="utf-8"), stage
    write(tmp_path / "two.jsonl", "Other", 30)
    code, _, err = farss("run", recipe, *mixture, "--out", tmp_path / "run")
    assert code == 2 and "an input changed since this run was begun" in err


def test_the_rows_of_a_mixture_are_shown_with_their_set(farss, asked):
    recipe, mixture = asked
    code, out, err = farss("rows", "--recipe", recipe, *mixture, "--rows", "40")
    assert code == 0, err
    assert "two.jsonl: 30 rows read, 9 used" in out and "two.jsonl: read by prompt, completion" in out


@pytest.mark.parametrize("text", ["", "=3", "a.jsonl=", "a.jsonl=x", "a.jsonl=-1", "a.jsonl=\u0663"])
def test_a_mixture_of_another_form_is_refused(farss, asked, capsys, text):
    with pytest.raises(SystemExit):
        farss("rows", "--recipe", asked[0], "--mix", text)
    assert "NAME=ROWS,NAME" in capsys.readouterr().err
