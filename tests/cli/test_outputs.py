"""Whatever stands in an output folder and is not of farss stays to the byte, and the verb says so before it loads."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from farss.errors import ModelError, OutputError
from farss.experiment import fitting, kept_scores, materials, scoring, steps
from farss.storage.owned import take
from farss.training import checkpoints

INNER = [
    *("recipe.yaml", "inputs.json", "arithmetic.json", "report.json", "report.html", "plan.json", "stats.safetensors"),
    *("audit.json", "audit.html", "inspect.json", "inspect.html", "results.json", "request.json", "measured.json"),
    *("samples.jsonl.gz", "table.md", "train.json", "adapter_config.json", "done.json", "started.json", ".lock"),
    *("base", "after", "plans", "statistics", "checkpoints", "adapter", "lora-lr0.01-seed0", "rte", ".farss.json"),
    *("model", "peft", "exported"),
]
"""Every name that some verb gives to something in its folder."""
OF_A_MARKED_FOLDER = {
    "run": ("recipe.yaml", "inputs.json", "report.json", "report.html", "base", "plans", "lora-lr0.01-seed0/train"),
    "audit": ("audit.json", "audit.html", "base", "after", "arithmetic.json"),
    "eval": ("results.json", "request.json", "measured.json", "samples.jsonl.gz"),
    "eval-two": ("results.json", "base/samples.jsonl.gz", "exported/results.json", "exported"),
    "train": ("recipe.yaml", "train.json", "adapter", "checkpoints"),
    "glue": ("recipe.yaml", "results.json", "table.md", "rte/lora-lr0.0005-seed0"),
    "compare": ("report.json", "report.html"),
}


@pytest.fixture
def verbs(workshop, initialised, trained, exported, monkeypatch):
    """The arguments of every verb that fills a folder; nothing may be loaded."""

    def load(*args, **keywords):
        pytest.fail("a model was loaded")

    for module, name in ((materials, "load_model"), (materials, "load_for_statistics"), (steps, "load")):
        monkeypatch.setattr(module, name, load)
    recipe = workshop.recipe("outputs", methods=["lora", "pissa"])
    on = ("--recipe", recipe)
    return {
        "run": ("run", recipe),
        "init": ("init", *on),
        "shard": ("init", *on, "--shard", "1/2"),
        "inspect": ("inspect", *on),
        "train": ("train", "--init", initialised, *on),
        "export": ("export", "--adapter", trained),
        "eval": ("eval", *on, "--tasks", "capitals"),
        "eval-two": ("eval", *on, "--tasks", "capitals", "--adapter", "base", exported),
        "audit": ("audit", *on, "--tasks", "capitals", "--adapter", exported),
        "glue": ("glue", *on, "--tasks", "rte", "--methods", "lora"),
        "compare": ("compare", workshop.folder / "no-run"),
    }


ALL = ("run", "init", "shard", "inspect", "train", "export", "eval", "eval-two", "audit", "glue", "compare")


def put(place, kind):
    place.parent.mkdir(parents=True, exist_ok=True)
    if kind == "folder":
        place.mkdir()
        place = place / "thesis.txt"
    place.write_bytes(b"years of work")
    return place


def everything(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".farss.json"}


@pytest.mark.case("a verb takes what it finds in its output folder for its own, and removes it or writes over it")
@pytest.mark.parametrize("verb", ALL)
def test_a_foreign_file_or_folder_of_any_inner_name_stays(farss, verbs, tmp_path, verb):
    fresh = ("--fresh",) if verb in OF_A_MARKED_FOLDER and verb != "compare" else ()
    for number, name in enumerate(INNER):
        for kind in ("file", "folder"):
            out = tmp_path / f"{kind}{number}"
            theirs = put(out / name, kind)
            for more in ((), fresh):
                code, _, err = farss(*verbs[verb], *more, "--out", out)
                assert code == 2 and "Traceback" not in err, (name, kind, err)
                assert [path for path in out.rglob("*") if path.is_file()] == [theirs]
                assert theirs.read_bytes() == b"years of work"


@pytest.mark.parametrize("verb", OF_A_MARKED_FOLDER)
def test_it_stays_in_a_folder_that_the_verb_made_too(farss, verbs, tmp_path, verb):
    for number, name in enumerate(OF_A_MARKED_FOLDER[verb]):
        for kind in ("file", "folder"):
            out = tmp_path / f"{kind}{number}"
            take(out, verb.partition("-")[0])
            put(out / name, kind)
            before = everything(out)
            code, _, err = farss(*verbs[verb], "--out", out)
            assert code == 2 and "Traceback" not in err, (name, kind, err)
            assert everything(out) == before, name


@pytest.mark.case("an audit into the folder that holds the model deletes the model")
def test_an_audit_beside_the_model_does_not_touch_it(farss, workshop, exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(workshop.model, "base")
    (tmp_path / "after").mkdir()
    (tmp_path / "after" / "notes.txt").write_text("mine")
    before = everything(tmp_path)
    for out in (".", "base", "base/audit", "after", "after/.."):
        code, _, _ = farss("audit", "--model", "base", "--adapter", exported, "--tasks", "facts", "--out", out)
        assert code == 2 and everything(tmp_path) == before


@pytest.mark.case("a run into the folder of its recipe writes over it")
def test_a_run_beside_its_recipe_leaves_it_as_it_was_written(farss, workshop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "# my own notes\n" + Path(workshop.recipe("mine", methods=["lora"])).read_text(encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(text)
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "todo.txt").write_text("this week")
    before = everything(tmp_path)
    code, _, err = farss("run", "recipe.yaml", "--out", ".")
    assert code == 2 and "the recipe" in err and everything(tmp_path) == before


@pytest.mark.parametrize("verb", ALL)
def test_an_output_in_above_or_at_an_input_is_refused(farss, verbs, workshop, initialised, exported, verb):
    places = [workshop.model, workshop.model / "out", workshop.folder / "model" / ".." / "model" / "deep" / "out"]
    if verb not in ("export", "compare"):
        places.append(workshop.data / "out")
    if verb == "compare":
        places = [workshop.folder]
    for out in places:
        code, _, err = farss(*verbs[verb], "--out", out)
        assert code == 2 and "Traceback" not in err, err
        assert not (workshop.model / "out").exists() and not (workshop.data / "out").exists()


@pytest.mark.case("names too long or with NUL, pipes and files as outputs")
@pytest.mark.parametrize("verb", ALL)
def test_an_impossible_output_is_refused_in_short(farss, verbs, tmp_path, verb):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("mine")
    for out in (
        "x" * 300,
        "x" * 252,
        "a\0b",
        "a\x1b[2Jb",
        tmp_path / "pipe",
        tmp_path / "file",
        tmp_path / "file" / "x",
    ):
        code, _, err = farss(*verbs[verb], "--out", out)
        assert code == 2 and "Traceback" not in err and len(err) < 900 and "\x1b" not in err


def test_fresh_removes_what_farss_wrote_and_nothing_else(farss, workshop, exported, tmp_path):
    asked = ("eval", "--recipe", workshop.recipe("fresh"), "--tasks", "capitals", "--out", tmp_path / "out")
    assert farss(*asked)[0] == 0
    other = ("--set", "eval.shots=2")
    code, _, err = farss(*asked, *other)
    assert code == 2 and "eval.shots: 1 -> 2" in err and "--fresh" in err
    assert farss(*asked, *other, "--fresh")[0] == 0
    assert json.loads((tmp_path / "out" / "results.json").read_text())["recipe"]["eval"]["shots"] == 2
    (tmp_path / "out" / "notes.txt").write_text("mine")
    before = everything(tmp_path)
    code, _, err = farss(*asked, "--fresh")
    assert code == 2 and "notes.txt" in err and everything(tmp_path) == before


@pytest.mark.case("an evaluation that failed goes on in its folder")
def test_a_failed_evaluation_goes_on_behind_what_it_had(farss, workshop, exported, tmp_path, monkeypatch):
    asked = ("eval", "--recipe", workshop.recipe("again"), "--tasks", "capitals", "--out", tmp_path / "out")
    asked = (*asked, "--adapter", "base", exported)
    measured, ask = [], scoring.ask_sets

    def once(recipe, backend, title, kept, **more):
        measured.append(title)
        if len(measured) == 2:
            raise ModelError("something broke")
        ask(recipe, backend, title, kept, **more)

    monkeypatch.setattr(scoring, "ask_sets", once)
    assert farss(*asked)[0] == 2
    code, _, err = farss(*asked)
    assert code == 0 and measured == ["", "exported", "exported"], err
    again = (tmp_path / "out" / "results.json").read_bytes()
    assert farss(*asked)[0] == 0 and len(measured) == 3
    assert (tmp_path / "out" / "results.json").read_bytes() == again


@pytest.mark.case("the second adapter is looked at before the first is measured")
def test_every_adapter_is_tried_before_one_is_measured(farss, workshop, exported, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "ask_sets", lambda *args, **more: pytest.fail("one was measured"))
    shutil.copytree(exported, tmp_path / "broken")
    weights = tmp_path / "broken" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    (tmp_path / "empty").mkdir()
    recipe = workshop.recipe("second")
    for second in ("broken", "empty"):
        adapters = ("--adapter", exported, tmp_path / second)
        code, _, _ = farss("eval", "--recipe", recipe, "--tasks", "capitals", *adapters, "--out", tmp_path / "out")
        assert code == 2
    assert not list((tmp_path / "out").glob("*/results.json")) and not (tmp_path / "out" / "results.json").exists()


def test_an_adapter_called_like_a_file_of_the_results(farss, workshop, exported, tmp_path):
    shutil.copytree(exported, tmp_path / "results.json")
    recipe, named = workshop.recipe("named"), ("--adapter", "base", tmp_path / "results.json")
    code, _, err = farss("eval", "--recipe", recipe, "--tasks", "capitals", *named, "--out", tmp_path / "out")
    assert code == 0, err
    assert len(json.loads((tmp_path / "out" / "results.json").read_text())["runs"]) == 2


@pytest.mark.case("what was measured is printed where it cannot be written")
def test_scores_that_cannot_be_written_are_printed(farss, workshop, tmp_path, monkeypatch):
    def full(*args, **keywords):
        raise OSError(errno.ENOSPC, "No space left on device")

    measure = scoring.ask_sets

    def then_full(*args, **keywords):
        monkeypatch.setattr("farss.storage.files.tempfile.mkstemp", full)
        measure(*args, **keywords)

    monkeypatch.setattr(scoring, "ask_sets", then_full)
    code, out, err = farss(
        "eval", "--recipe", workshop.recipe("full"), "--tasks", "capitals", "--out", tmp_path / "out"
    )
    assert code == 1 and "the disk is full" in err and "bytes free" in err
    assert any(name.startswith("knowledge/capitals") or "capitals" in name for name in json.loads(out)["scores"])


@pytest.mark.case("two evaluations into one folder")
def test_a_second_evaluation_of_the_same_folder_is_refused_while_one_is_at_work(farss, workshop, tmp_path, monkeypatch):
    asked = ("eval", "--recipe", workshop.recipe("two"), "--tasks", "capitals", "--out", tmp_path / "out")
    ask, codes = scoring.ask_sets, []

    def meanwhile(*args, **keywords):
        monkeypatch.setattr(scoring, "ask_sets", ask)
        codes.append(farss(*asked))
        ask(*args, **keywords)

    monkeypatch.setattr(scoring, "ask_sets", meanwhile)
    assert farss(*asked)[0] == 0
    assert codes[0][0] == 1 and "another process is at work" in codes[0][2]


@pytest.mark.case("which settings differ is said, and what changes no result may differ")
def test_a_training_goes_on_with_other_passes_and_names_other_settings(
    farss, workshop, initialised, tmp_path, monkeypatch
):
    asked = ("train", "--init", initialised, "--set", "train.save_steps=1", "--epochs", "2", "--out", tmp_path / "out")
    save = fitting.save_adapter

    def broken(*args, **settings):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fitting, "save_adapter", broken)
    code, _, err = farss(*asked)
    assert code == 1 and "the disk is full" in err
    monkeypatch.setattr(fitting, "save_adapter", save)
    before = everything(tmp_path)
    code, _, err = farss(*asked, "--lr", "3e-3")
    assert code != 0 and "settings.learning_rate: 0.01 -> 0.003" in err and "--fresh" in err
    assert everything(tmp_path) == before
    other = ("--set", "train.micro_batch_size=1", "--set", "train.gradient_checkpointing=true")
    code, _, err = farss(*asked, *other, "--set", "train.save_steps=3")
    assert code == 0, err
    code, _, err = farss(*asked)
    assert code == 2 and "--fresh" in err
    assert farss(*asked, "--lr", "3e-3", "--fresh")[0] == 0


def test_a_foreign_checkpoint_is_not_removed(tmp_path):
    (tmp_path / "mine" / "checkpoint-500").mkdir(parents=True)
    (tmp_path / "mine" / "checkpoint-500" / "model.safetensors").write_text("weeks of training")
    for resume in (True, False):
        with pytest.raises(OutputError):
            checkpoints.claim(tmp_path / "mine", {}, resume=resume)
    checkpoints.claim(tmp_path / "own", {}, resume=True)
    shutil.copytree(tmp_path / "mine" / "checkpoint-500", tmp_path / "own" / "checkpoint-500")
    with pytest.raises(OutputError):
        checkpoints.claim(tmp_path / "own", {}, resume=False)
    assert (tmp_path / "own" / "checkpoint-500" / "model.safetensors").exists()


def test_parts_are_measured_once(tmp_path):
    asked = []

    def ask():
        asked.append(1)
        return {"scores": {"a": {"value": 1.0}}, "seconds": 2.0}

    for _ in range(2):
        kept = kept_scores.KeptScores(tmp_path / "out", "eval")
        kept.measure("sets", ask, "samples", lambda file: file.write_text("x"))
        assert kept.scores == {"a": {"value": 1.0}} and kept.seconds == 2.0
    assert len(asked) == 1
