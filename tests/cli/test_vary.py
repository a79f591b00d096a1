"""Jobs of one method with different settings: what they share is done once, and each is what a run of its own gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from farss.cli.main import main
from farss.config import Recipe
from farss.errors import ConfigError
from farss.experiment.jobs import jobs_of, recipes_of
from farss.experiment.runs.keys import Keys
from farss.model.plan import Plan
from farss.report import validate
from farss.report.runs import catalogue

GRID = {"farss": {"init": {"rank": [2, 4], "shallow_layers": [1, 2, 3]}}}
VARIANTS = [f"rank{rank}-shallow_layers{layers}" for rank in (2, 4) for layers in (1, 2, 3)]


def passes_in(folder: Path) -> list[str]:
    return sorted(file.parent.name for file in folder.glob("*/stats.safetensors"))


@pytest.fixture(scope="module")
def varied(workshop) -> Path:
    """Three boundaries and two ranks of farss beside plain LoRA and full fine-tuning."""
    folder = workshop.folder / "varied"
    recipe = workshop.recipe("varied", vary=GRID, **{"eval.frontier_scales": [0, 1]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FARSS_CACHE", str(workshop.folder / "cache-of-varied"))
        assert main(["run", recipe, "--out", str(folder)]) == 0
    return folder


def test_a_grid_takes_one_pass_and_one_decomposition_for_each_weight(varied, workshop):
    report = json.loads((varied / "report.json").read_text())
    validate(report)
    assert passes_in(varied) == ["statistics"]
    ids = [run["id"] for run in report["runs"]]
    assert ids == ["full-lr0.01-seed0", "lora-lr0.01-seed0", *(f"farss-{name}-lr0.01-seed0" for name in VARIANTS)]
    assert len(list((workshop.folder / "cache-of-varied" / "spectra").rglob("*.safetensors"))) == 3 * 7
    assert len(report["differences"]["methods"]) == len(report["runs"])


def test_each_variant_is_what_a_run_of_its_own_gives(varied, workshop, farss):
    recipe = workshop.recipe("alone", methods=["full", "farss"], **{"eval.frontier_scales": [0, 1]})
    alone = workshop.folder / "alone"
    code, _, err = farss("run", recipe, "--out", alone, "--rank", 2, "--set", "init.shallow_layers=2")
    assert code == 0, err
    mine, own = (Plan.load(place) for place in (varied / f"plans/farss-{VARIANTS[1]}.json", alone / "plans/farss.json"))
    assert mine.targets == own.targets and mine.settings == own.settings and mine.data == own.data
    ends = [json.loads((place / "train/done.json").read_text())["curve"]
            for place in (varied / f"farss-{VARIANTS[1]}-lr0.01-seed0", alone / "farss-lr0.01-seed0")]  # fmt: skip
    assert ends[0] == ends[1]


def test_variants_have_names_and_marks_of_their_own(varied):
    runs = catalogue(json.loads((varied / "report.json").read_text()))
    labels = [run.method_label for run in runs]
    assert labels[2] == "FARSS, rank 2, shallow_layers 1" and len(set(labels)) == len(labels)
    assert len({(run.colour, run.style.shape) for run in runs}) == len(runs)
    page = (varied / "report.html").read_text()
    assert "FARSS, rank 4, shallow_layers 3" in page


def test_what_is_added_to_a_grid_is_all_that_is_done(varied, workshop, farss, tmp_path):
    before = {file: file.stat().st_mtime_ns for file in varied.rglob("done.json")}
    wider = {"farss": {"init": {"rank": [2, 4, 3], "shallow_layers": [1, 2, 3]}}}
    recipe = workshop.recipe("varied", vary=wider, **{"eval.frontier_scales": [0, 1]})
    code, _, err = farss("run", recipe, "--out", varied)
    assert code == 0, err
    after = {file: file.stat().st_mtime_ns for file in varied.rglob("done.json")}
    redone = {file.parent.relative_to(varied).parts[0] for file in before if before[file] != after[file]}
    assert redone == {"plans"}
    assert len(after) == len(before) + 2 * 3


def test_rows_are_read_until_the_plans_of_all_variants_agree(workshop):
    grid = {"farss": {"init": {"rank": [2, 8]}}, "lora": {"init": {"rank": [64]}}}
    recipe = Recipe.from_mapping(workshop.settings(vary=grid, **{"data.calibration_rows": "auto"}))
    (taken,) = Keys(recipe).passes
    assert [config.rank for config in taken.judged] == [2, 8]
    fixed = recipe.override({"data.calibration_rows": 6})
    assert Keys(fixed).passes[0].keys["curvature"] == Keys(fixed.override({"vary": {}})).passes[0].keys["curvature"]
    job = next(job for job in jobs_of(recipe) if job.variant == "rank 2")
    alone = recipe.override({"vary": {"farss": {"init": {"rank": [2]}}}})
    assert Keys(recipe).training(job) != Keys(alone).training(job)
    assert Keys(fixed).training(job) == Keys(alone.override({"data.calibration_rows": 6})).training(job)


def test_what_is_read_differently_is_read_apart(workshop, farss):
    grid = {"farss": {"data": {"calibration_rows": [2, 4]}}, "lora": {"data": {"train_rows": [4, 8]}}}
    recipe = workshop.recipe("apart", vary=grid, methods=["lora", "farss"], **{"eval.frontier_scales": [0, 1]})
    code, out, err = farss("run", recipe, "--out", workshop.folder / "apart", "--json")
    assert code == 0, err
    taken = passes_in(workshop.folder / "apart")
    assert len(taken) == 2 and taken[0] == "statistics"
    read = [
        Plan.load(workshop.folder / f"apart/plans/farss-calibration_rows{rows}.json").data["rows"] for rows in (2, 4)
    ]
    assert read == [2, 4]
    tokens = {run["variant"]: run["overrides"] for run in json.loads(out)["runs"]}
    assert tokens["train_rows 4"] == {"data.train_rows": 4}


@pytest.mark.parametrize(
    ("vary", "said"),
    [
        ({"nosuch": {"init": {"rank": [1, 2]}}}, "nosuch"),
        ({"pissa": {"init": {"rank": [1, 2]}}}, "not among the methods"),
        ({"farss": {"init": {"rank": 3}}}, "a list of different values"),
        ({"farss": {"init": {"rank": []}}}, "a list of different values"),
        ({"farss": {"init": {"rank": [3, 3]}}}, "a list of different values"),
        ({"farss": {"init": {"rnk": [1, 2]}}}, "did you mean `rank`"),
        ({"farss": {"init": {"rank": ["many"]}}}, "wrong type"),
        ({"farss": {"train": {"seed": [1, 2]}}}, "seeds or method_seeds"),
        ({"farss": {"train": {"learning_rate": [1e-3]}}}, "method_learning_rates"),
        ({"farss": {"eval": {"shots": [1, 2]}}}, "the same for all its jobs"),
        ({"farss": {"model": {"name": ["a", "b"]}}}, "the same for all its jobs"),
        ({"farss": {"data": {"max_length": [32, 96]}}}, "measured on other rows than the base"),
        ({"full": {"init": {"rank": [1, 2]}}}, "the same training"),
    ],
)
def test_what_cannot_be_varied_is_refused_before_anything_is_loaded(farss, workshop, tmp_path, vary, said):
    code, _, err = farss("run", workshop.recipe("refused", vary=vary), "--out", tmp_path / "out")
    assert code == 2 and said in err
    assert not (tmp_path / "out").exists()


def test_names_of_variants_are_folders_and_told_apart(workshop):
    targets = [["q_proj", "v_proj"], [f"model.layers.{number}.self_attn.q_proj" for number in range(9)]]
    recipe = Recipe.from_mapping(workshop.settings(vary={"lora": {"init": {"targets": targets}}}, methods=["lora"]))
    names = [job.plan_name for job in jobs_of(recipe)]
    assert names[0] == "lora-targetsq_proj_v_proj" and len(set(names)) == 2
    assert all(len(name) < 80 and "/" not in name for name in names)
    assert [one.init.targets for one in recipes_of(recipe)] == [tuple(part) for part in targets]


def test_other_verbs_say_that_they_do_not_vary(farss, workshop, tmp_path):
    code, _, err = farss(
        "glue", "--recipe", workshop.recipe("glue", vary=GRID), "--tasks", "rte", "--out", tmp_path / "glue"
    )
    assert code == 2 and "does not vary" in err


def test_a_recipe_that_varies_reads_back(workshop, tmp_path):
    recipe = Recipe.from_mapping(workshop.settings(vary=GRID))
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    assert Recipe.from_yaml(tmp_path / "recipe.yaml") == recipe
    assert recipe.override({"vary.farss.init.rank": [7, 8]}).vary["farss"]["init"]["rank"] == [7, 8]
    with pytest.raises(ConfigError, match="a mapping is needed"):
        recipe.override({"vary": ["farss"]})
