"""Tokens and lengths that a model has no row for, by the command: named, or cut and counted, before it runs."""

from __future__ import annotations

import json

import pytest
from tests.families import saved

WINDOW = 128
VERBS = (["init", "--engine", "resident"], ["init", "--engine", "streamed"], ["inspect"])


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_tokenizer):
    """GPT-2 of 100 words and 128 positions, whose tokenizer knows a word more and pads with another."""
    folder = saved("GPT-2", tmp_path_factory.mktemp("tables") / "model", tiny_tokenizer)
    import copy

    wider = copy.deepcopy(tiny_tokenizer)
    wider.add_special_tokens({"pad_token": "[PAD]"})
    wider.add_tokens(["<|turn|>"], special_tokens=True)
    wider.save_pretrained(folder)
    return folder


@pytest.mark.case("a token of the data that has no embedding is named with its row")
@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_the_row_and_the_token_are_named(farss, workshop, model, verb, tmp_path):
    rows = [{"prompt": f"ask {i}", "completion": "yes" + " <|turn|>" * (i == 3)} for i in range(8)]
    data = tmp_path / "turns.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = workshop.recipe("tables", **{"model.name": str(model), "data.task": str(data)})
    code, _, err = farss(*verb, "--recipe", recipe, "--out", tmp_path / "out")
    assert code == 2, err
    assert "a token has no embedding in the model" in err
    assert "row 4" in err and "<|turn|>" in err and "Traceback" not in err


@pytest.mark.case("max_length beyond the window is cut to it, and a padding token without an embedding is replaced")
@pytest.mark.parametrize("verb", [*VERBS, ["train"]], ids=" ".join)
def test_texts_are_cut_to_the_window(farss, workshop, model, verb, tmp_path):
    rows = [{"prompt": f"ask {i}", "completion": "yes " * 60} for i in range(8)]
    data = tmp_path / "long.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = workshop.recipe(
        "tables", **{"model.name": str(model), "data.task": str(data), "data.max_length": 200, "init.rank": 4}
    )
    command = verb
    if verb == ["train"]:
        assert farss("init", "--recipe", recipe, "--method", "lora", "--out", tmp_path / "init")[0] == 0
        command = ["train", "--init", tmp_path / "init"]
    with pytest.warns(UserWarning, match="the model reads 128 tokens"):
        code, _, err = farss(*command, "--recipe", recipe, "--out", tmp_path / "out")
    assert code == 0, err


@pytest.mark.case("where the model's window is the limit, nobody is told to raise max_length")
@pytest.mark.parametrize(
    ("asked", "right", "wrong"), [(200, "reads no more", "raise"), (64, "raise max_length", "no more")]
)
@pytest.mark.parametrize("verb", ["init", "inspect"])
def test_the_advice_is_about_the_limit_that_was_met(farss, workshop, model, verb, asked, right, wrong, tmp_path):
    data = tmp_path / "prompts.jsonl"
    rows = [{"prompt": f"{i} " + "why " * 40, "completion": "yes"} for i in range(8)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = workshop.recipe("limits", **{"model.name": str(model), "data.task": str(data), "data.max_length": asked})
    code, _, err = farss(verb, "--recipe", recipe, "--out", tmp_path / "out")
    assert code == 2 and f"shorter than {min(asked, 128)} tokens" in err, err
    advice = err.rpartition("what to do:")[2]
    assert right in advice and wrong not in advice, err


@pytest.mark.case("texts beyond the window are counted in the results of an evaluation")
def test_what_is_cut_is_counted_in_the_results(farss, workshop, model, tmp_path):
    questions = [{"question": f"{n}" + " long" * (50 * (n < 3)), "answer": ["yes"], "relation": "r"} for n in range(5)]
    asked = tmp_path / "asked.jsonl"
    asked.write_text("".join(json.dumps(row) + "\n" for row in questions))
    more = ("--model", model, "--tasks", asked, "--set", "eval.shots=0", "--dtype", "float32")
    with pytest.warns(UserWarning, match="3 of 5 texts are longer"):
        code, out, err = farss("eval", *more, "--out", tmp_path / "out")
    assert code == 0, err
    (found,) = json.loads((tmp_path / "out" / "results.json").read_text())["cut"].values()
    assert found == {"texts": 10, "cut": 6, "window": WINDOW}  # every question is scored, and answered in words
    assert f"6 of 10 texts are longer than the {WINDOW} tokens" in out


def test_nothing_is_said_where_nothing_is_cut(farss, workshop, tmp_path):
    code, out, err = farss("eval", "--recipe", workshop.recipe("short"), "--tasks", "capitals", "--out", tmp_path / "o")
    assert code == 0, err
    assert json.loads((tmp_path / "o" / "results.json").read_text())["cut"] == {}
    assert "lost their beginning" not in out
