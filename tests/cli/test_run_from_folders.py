"""`farss run` from folders that exist: an initialised start (`init_from`), models trained elsewhere (`subjects`)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from farss.cli.main import main
from farss.report import validate

JOB, FULL = "farss-lr0.01-seed0", "full-lr0.01-seed0"
WEIGHTS = "adapter_model.safetensors"


def entries(folder: Path) -> dict[str, Any]:
    report = json.loads((folder / "report.json").read_text())
    validate(report)
    return {run["id"]: run for run in report["runs"]}


def verb(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0


@pytest.fixture(scope="module")
def streamed(workshop) -> Path:
    out = workshop.folder / "streamed"
    verb("init", "--recipe", workshop.recipe("streamed"), "--engine", "streamed", "--out", out)
    return out


@pytest.fixture(scope="module")
def from_shards(workshop) -> Path:
    recipe, place = workshop.recipe("shards"), workshop.folder / "shards"
    for number in (1, 2):
        verb("init", "--recipe", recipe, "--shard", f"{number}/2", "--out", place / str(number))
    verb("merge-stats", place / "1", place / "2", "--out", place / "merged")
    verb("init", "--recipe", recipe, "--stats", place / "merged", "--out", place / "init")
    return place / "init"


@pytest.mark.parametrize("start", ["initialised", "streamed", "from_shards"])
def test_a_job_that_starts_from_a_folder_is_what_train_makes_of_it(start, request, workshop, tmp_path):
    folder, out = request.getfixturevalue(start), tmp_path / "run"
    verb("train", "--init", folder, "--out", tmp_path / "trained")
    verb("run", workshop.recipe("from", methods=["full", "farss"]), "--init-from", f"farss={folder}", "--out", out)
    trained = out / JOB / "train" / "adapter" / WEIGHTS
    assert trained.read_bytes() == (tmp_path / "trained" / "adapter" / WEIGHTS).read_bytes()
    assert not (out / "statistics").exists()
    planned = json.loads((folder / "plan.json").read_text())["targets"]
    assert [row["rank"] for row in entries(out)[JOB]["plan"]["targets"]] == [row["rank"] for row in planned]


@pytest.fixture(scope="module")
def with_subjects(workshop, exported) -> tuple[Path, str]:
    """A run that measures an adapter in PEFT's form, and the recipe that names it."""
    mine, out = workshop.folder / "mine", workshop.folder / "run-subjects"
    shutil.copytree(exported, mine)
    recipe = workshop.recipe("subjects", methods=["full"], subjects={"mine": str(mine)})
    verb("run", recipe, "--out", out)
    return out, recipe


def test_a_model_trained_elsewhere_is_in_the_report_of_the_run(with_subjects, exported, tmp_path):
    out, _ = with_subjects
    runs = entries(out)
    assert list(runs) == [FULL, "mine"] and runs["mine"]["trained_elsewhere"] == "adapter"
    verb("compare", out, exported, "--out", tmp_path / "both")
    both = entries(tmp_path / "both")
    assert list(both) == [FULL, "mine", exported.name]
    for name in ("scores", "compared", "frontier"):
        assert both[exported.name][name] == runs["mine"][name] == both["mine"][name]


def test_what_is_measured_is_kept_until_the_folder_holds_something_else(with_subjects, workshop, farss, tmp_path):
    out, recipe = shutil.copytree(with_subjects[0], tmp_path / "run"), with_subjects[1]
    done = out / "measured" / "mine" / "done.json"
    before = done.stat().st_mtime_ns
    assert farss("run", recipe, "--out", out)[0] == 0
    assert done.stat().st_mtime_ns == before
    mine = shutil.copytree(workshop.folder / "mine", tmp_path / "mine")
    config = json.loads((mine / "adapter_config.json").read_text())
    (mine / "adapter_config.json").write_text(json.dumps(config | {"lora_dropout": 0.5}))
    assert farss("run", recipe, "--subjects", f"mine={mine}", "--out", out)[0] == 0
    assert done.stat().st_mtime_ns != before


def test_a_finished_run_needs_the_folders_no_more(with_subjects, workshop, tmp_path):
    (workshop.folder / "mine").rename(workshop.folder / "moved")
    try:
        verb("compare", with_subjects[0], "--out", tmp_path / "again")
    finally:
        (workshop.folder / "moved").rename(workshop.folder / "mine")
    assert list(entries(tmp_path / "again")) == [FULL, "mine"]


def test_other_settings_of_the_plan_are_said_by_name(workshop, initialised, farss, tmp_path):
    recipe = workshop.recipe("others", methods=["farss"], **{"init.rank": 3, "init.r_max": 3})
    code, _, err = farss("run", recipe, "--init-from", f"farss={initialised}", "--out", tmp_path / "run")
    assert code == 0 and "made with other settings: init.rank: 4 -> 3; init.r_max: 4 -> 3" in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--init-from", "lora=INIT"), "initialised for another method"),
        (("--init-from", "pissa=INIT"), "what is no adapter method of the recipe"),
        (("--init-from", "full=INIT"), "what is no adapter method of the recipe"),
        (("--init-from", "farss=INIT@0123456789abcdef"), "holds something else than the recipe says"),
        (("--init-from", "farss=INIT", "--set", "vary={farss: {init: {rank: [2, 4]}}}"), "is planned already"),
        (("--subjects", "mine=DATA"), "holds neither an adapter nor a model"),
        (("--subjects", "../mine=INIT/adapter"), "must do as that of a folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_started_from_or_measured_is_refused(flags, message, workshop, initialised, farss, tmp_path):
    given = [flag.replace("INIT", str(initialised)).replace("DATA", str(workshop.data)) for flag in flags]
    code, _, err = farss("run", workshop.recipe("refused"), *given, "--out", tmp_path / "run")
    assert code == 2 and message in err and not (tmp_path / "run").exists()


def test_a_start_of_another_base_is_refused(workshop, farss, tmp_path):
    verb("init", "--recipe", workshop.recipe("other"), "--model", workshop.other, "--out", tmp_path / "init")
    recipe = workshop.recipe("wrong-base", methods=["farss"])
    code, _, err = farss("run", recipe, "--init-from", f"farss={tmp_path / 'init'}", "--out", tmp_path / "run")
    assert code == 2 and "made for another base model" in err
