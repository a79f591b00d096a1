"""The verbs one by one: what they leave, and what a wrong request gets."""

from __future__ import annotations

import gzip
import json
import shutil

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from farss.adapters.files import load_adapter
from farss.cli.main import build_parser
from farss.errors import FarssError
from farss.model.plan import Plan


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(3, 43).reshape(2, 20)).logits


@pytest.mark.parametrize(("verb", "known"), [("methods", "farss"), ("tasks", "gsm8k"), ("models", "smollm2-135m")])
def test_lists_as_table_and_json(farss, verb, known):
    code, out, _ = farss(verb)
    assert code == 0 and known in out
    code, out, _ = farss(verb, "--json")
    assert code == 0 and known in [row["name"] for row in json.loads(out)]


def test_every_verb_explains_itself_with_an_example(farss, capsys):
    from farss.cli.main import VERBS

    for verb in VERBS:
        with pytest.raises(SystemExit) as caught:
            farss(verb, "--help")
        assert caught.value.code == 0
        assert f"farss {verb}" in capsys.readouterr().out.partition("example:")[2]


def test_init_leaves_plan_adapter_statistics_and_recipe(initialised, workshop):
    assert {path.name for path in initialised.iterdir()} == {
        *("plan.json", "adapter", "stats.safetensors", "recipe.yaml", ".farss.json"),
    }
    plan = Plan.load(initialised / "plan.json")
    assert plan.method == "farss"
    assert {target.layer for target in plan.targets if target.region == "shallow"} == {0}
    assert plan.data is not None and plan.data["rows"] == 6
    base = AutoModelForCausalLM.from_pretrained(workshop.model)
    before = logits(base)
    assert torch.allclose(logits(load_adapter(base, initialised / "adapter")), before, atol=1e-5)


def test_init_obeys_an_edited_plan(farss, initialised, workshop, tmp_path):
    plan = json.loads((initialised / "plan.json").read_text())
    plan["targets"] = plan["targets"][:2]
    plan["targets"][0] |= {"rank": 1, "indices": [7]}
    edited = tmp_path / "edited.json"
    edited.write_text(json.dumps(plan))
    out = tmp_path / "init"
    code, text, _ = farss("init", "--model", workshop.model, "--plan", edited, "--out", out, "--json")
    assert code == 0 and json.loads(text)["modules"] == 2
    kept = Plan.load(out / "plan.json")
    assert kept == Plan.load(edited) and kept.targets[0].indices == (7,)
    config = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert 2 in {config["r"], *config["rank_pattern"].values()}  # rank 1, and what it started from
    assert not (out / "stats.safetensors").exists()


def test_init_without_data_for_a_method_that_needs_none(farss, workshop, tmp_path):
    arguments = ("--model", workshop.model, "--data", "nowhere.jsonl", "--rank", 2, "--out", tmp_path / "init")
    code, _, err = farss("init", "--method", "pissa", *arguments)
    assert code == 0, err


def test_train_continues_the_recipe_of_init(trained):
    account = json.loads((trained.parent / "train.json").read_text())
    assert account["steps"] == 2  # eight of the nine rows fit, four at a time
    assert account["last_loss"] < account["first_loss"]
    files = {"adapter_config.json", "adapter_model.safetensors", "plan.json"}
    assert {path.name for path in trained.glob("[!.]*")} == files


def test_exported_peft_and_merged_say_the_same(farss, workshop, exported, trained, tmp_path):
    code, out, _ = farss("export", "--adapter", trained, "--to", "merged", "--out", tmp_path / "merged")
    assert code == 0 and "tolerance" in out
    base = AutoModelForCausalLM.from_pretrained(workshop.model)
    before = logits(base)
    adapted = logits(PeftModel.from_pretrained(base, str(exported)))
    assert torch.allclose(adapted, logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")), atol=1e-4)
    assert (adapted - before).abs().max() > 1e-2


def test_export_portable_has_one_rank_and_truncation_says_its_error(farss, trained, tmp_path):
    code, _, _ = farss("export", "--adapter", trained, "--to", "portable", "--out", tmp_path / "whole")
    assert code == 0
    code, out, _ = farss("export", "--adapter", trained, "--to", "portable", "--rank", 2, "--out", tmp_path / "cut")
    assert code == 0 and "truncation to rank 2: relative error" in out
    for name in ("whole", "cut"):
        config = json.loads((tmp_path / name / "adapter_config.json").read_text())
        assert not config.get("rank_pattern") and not config.get("alpha_pattern")


def test_eval_of_the_exported_adapter(farss, workshop, exported, tmp_path):
    arguments = ("--recipe", workshop.recipe("eval"), "--tasks", "capitals,gsm8k", "--out", tmp_path / "scores")
    code, out, _ = farss("eval", "--adapter", exported, *arguments)
    assert code == 0 and "knowledge/capitals/log_prob" in out
    result = json.loads((tmp_path / "scores" / "results.json").read_text())
    assert result["scores"]["knowledge/capitals/log_prob"]["n"] == 7  # eight, one of them shown as an example
    assert result["scores"]["task/gsm8k/loss"]["n"] == 4  # five, one of them too long
    with gzip.open(tmp_path / "scores" / "samples.jsonl.gz", "rt") as file:
        assert len(file.readlines()) == 11


WRONG_RECIPES = {
    "unknown key": ({"init.rnk": 4}, "did you mean `rank`?"),
    "wrong type": ({"init.rank": "many"}, "wrong type"),
    "inconsistent ranks": ({"init.r_min": 3}, "shallow ranks are inconsistent"),
    "no epochs": ({"train.epochs": 0}, "the number of epochs must be positive"),
    "missing model": ({"model.name": "/nowhere/model"}, "the model folder does not exist"),
    "missing data": ({"data.task": "gsm8kk"}, "did you mean `gsm8k`?"),
    "missing data directory": ({"data.data_dir": "/nowhere"}, "the data directory does not exist"),
    "more shallow layers than layers": ({"init.shallow_layers": 4}, "more shallow layers than layers"),
    "targets that match nothing": ({"init.targets": ["nothing_proj"]}, "no linear module"),
    "no row short enough": ({"data.max_length": 8}, "no row keeps a response token"),
    "no chat template": ({"data.template": "chat"}, "no chat template"),
}


@pytest.mark.parametrize("case", WRONG_RECIPES)
def test_wrong_recipes_are_refused(farss, workshop, tmp_path, case):
    changes, message = WRONG_RECIPES[case]
    if case == "no chat template":
        changes = {**changes, "model.name": str(without_chat_template(workshop, tmp_path))}
    refused(farss("init", "--recipe", workshop.recipe("wrong", **changes), "--out", tmp_path / "out"), message)
    assert not (tmp_path / "out").exists()


def without_chat_template(workshop, folder):
    model = folder / "plain-model"
    shutil.copytree(workshop.model, model)
    (model / "chat_template.jinja").unlink()
    return model


def refused(outcome, message: str) -> None:
    code, out, err = outcome
    assert (code, out) == (2, "")
    assert message in err and "Traceback" not in err


@pytest.mark.parametrize("flag", ["--lr", "--seed"])
def test_a_run_takes_no_flag_that_it_would_not_read(flag, capsys):
    parser = build_parser()
    assert parser.parse_args(["train", "--init", "i", "--out", "o", flag, "1"])
    with pytest.raises(SystemExit):
        parser.parse_args(["run", "recipe.yaml", flag, "1"])
    assert "unrecognized arguments" in capsys.readouterr().err


def test_an_unknown_method_names_the_nearest(farss, workshop, tmp_path):
    refused(
        farss("init", "--recipe", workshop.recipe("method"), "--method", "farrs", "--out", tmp_path / "out"),
        "did you mean `farss`?",
    )


def test_rows_without_content_are_refused(farss, workshop, tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "fields.jsonl").write_text('{"question": "1+1?", "answer": "2"}\n{"question": "1+1?"}\n')
    for name, message in (("empty", "no rows"), ("fields", "fields.jsonl, row 2")):
        recipe = workshop.recipe("rows", **{"data.task": str(tmp_path / f"{name}.jsonl")})
        refused(farss("init", "--recipe", recipe, "--out", tmp_path / "out"), message)
        refused(farss("run", recipe, "--out", tmp_path / "run"), message)
    assert not (tmp_path / "run").exists()


def test_a_plan_for_another_model_is_refused(farss, workshop, initialised, tmp_path):
    plan = initialised / "plan.json"
    outcome = farss("init", "--model", workshop.other, "--plan", plan, "--out", tmp_path / "out")
    refused(outcome, "the plan was made for other weights")


def test_an_impossible_plan_is_refused(farss, workshop, initialised, tmp_path):
    plan = json.loads((initialised / "plan.json").read_text())
    plan["targets"][0]["rank"] = 33  # of a 32 x 32 weight
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    (tmp_path / "text.json").write_text("no plan")
    for name, message in (
        ("plan.json", "impossible rank"),
        ("text.json", "the plan is not valid JSON"),
        ("none.json", "the plan file does not exist"),
    ):
        outcome = farss("init", "--model", workshop.model, "--plan", tmp_path / name, "--out", tmp_path / "out")
        refused(outcome, message)


def test_an_adapter_for_another_base_is_refused(farss, workshop, exported, trained, initialised, tmp_path):
    message = "the adapter was made for another base model"
    recipe = workshop.recipe("base", **{"model.name": str(workshop.other)})
    refused(
        farss("eval", "--recipe", recipe, "--adapter", exported, "--tasks", "capitals", "--out", tmp_path / "e"),
        message,
    )
    refused(farss("export", "--adapter", trained, "--model", workshop.other, "--out", tmp_path / "x"), message)
    refused(farss("train", "--init", initialised, "--recipe", recipe, "--out", tmp_path / "t"), message)


def test_an_occupied_folder_is_refused(farss, workshop, initialised, trained, exported, tmp_path):
    (tmp_path / "file").write_text("mine")
    message = "the output folder is not empty"
    recipe = workshop.recipe("occupied")
    refused(farss("init", "--recipe", recipe, "--out", tmp_path), message)
    refused(farss("export", "--adapter", trained, "--out", tmp_path), message)
    refused(farss("eval", "--recipe", recipe, "--tasks", "capitals", "--out", tmp_path), message)
    refused(farss("train", "--init", initialised, "--out", trained.parent), "this folder holds a finished training")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_missing_folders_are_refused(farss, workshop, trained, tmp_path):
    recipe, out = workshop.recipe("missing"), tmp_path / "out"
    adapter = "the adapter folder does not exist"
    refused(farss("export", "--adapter", tmp_path / "no", "--out", out), adapter)
    refused(
        farss("eval", "--recipe", recipe, "--adapter", tmp_path / "no", "--tasks", "capitals", "--out", out), adapter
    )
    refused(farss("train", "--init", tmp_path / "no", "--out", out), "not a folder made by `farss init`")
    refused(farss("compare", tmp_path / "no", "--out", out), "not a run folder")
    refused(farss("init", "--recipe", tmp_path / "no.yaml", "--out", out), "the recipe file does not exist")
    refused(farss("init", "--recipe", tmp_path, "--out", out), "the recipe file cannot be read")
    refused(farss("run", "gsm8k-smolm2"), "did you mean `gsm8k-smollm2`?")


def test_flags_that_contradict_each_other_are_refused(farss, workshop, trained, tmp_path):
    recipe, out = workshop.recipe("flags"), tmp_path / "out"
    refused(
        farss("export", "--adapter", trained, "--to", "merged", "--rank", 2, "--out", out), "only the portable form"
    )
    refused(farss("run", recipe, "--recipe", recipe), "two recipes")
    refused(farss("run", recipe, "--set", "init.rank"), "--set needs KEY=VALUE")
    refused(farss("run", recipe, "--set", "init.rank=[1"), "not valid YAML")
    refused(farss("eval", "--recipe", recipe, "--tasks", "gsm8k,alpaca", "--out", out), "at most one task")
    refused(farss("init", "--recipe", recipe, "--method", "full", "--out", out), "nothing to initialise")


def test_an_unwritable_folder_fails_with_a_message(farss, workshop, tmp_path):
    (tmp_path / "file").write_text("")
    recipe = workshop.recipe("unwritable")
    for verb in (("init", "--recipe", recipe), ("run", recipe), ("eval", "--recipe", recipe, "--tasks", "capitals")):
        code, _, err = farss(*verb, "--out", tmp_path / "file" / "out")
        assert code == 2 and "Traceback" not in err
        assert "a part of the output's path is a file" in err


def test_debug_raises(farss, workshop, tmp_path):
    with pytest.raises(FarssError, match="folder does not exist"):
        farss("init", "--model", tmp_path / "no", "--out", tmp_path / "out", "--debug")
