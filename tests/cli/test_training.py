"""Training settings by flags and keys: what reaches the training, what is written of it, and what is refused when."""

from __future__ import annotations

import json

import pytest
import yaml

from farss.experiment import materials
from farss.experiment.steps import recipe_of
from farss.model.plan import Plan


@pytest.mark.case("evaluation while training")
def test_train_looks_at_rows_it_neither_learns_nor_scores(farss, workshop, initialised, tmp_path):
    folder = tmp_path / "trained"
    looks = ("--select", "validation", "--validation-rows", 3, "--eval-steps", 1, "--max-steps", 4)
    code, out, err = farss("train", "--init", initialised, *looks, "--set", "train.load_best=true", "--out", folder)
    assert code == 0, err
    account = json.loads((folder / "train.json").read_text())
    found = account["while_training"]
    assert [step for step, _ in found["losses"]] == [1, 2, 3, 4] and account["steps"] == 4
    lowest = min(found["losses"], key=lambda point: point[1])
    assert found["best_step"] == found["kept_step"] == lowest[0] and found["ended"] == "max_steps"
    assert f"validation loss: lowest {lowest[1]:.3f} at step {lowest[0]}, that of the adapter" in out
    assert (account["rows"]["used"], account["rows"]["validation"]) == (5, 3)
    recipe = recipe_of(folder)
    tokenizer = materials.tokenizer_of(recipe)
    learned = {example.ids for example in materials.training_examples(recipe, tokenizer)}
    looked_at = {example.ids for example in materials.validation_examples(recipe, tokenizer)}
    assert len(looked_at) == 3 and not looked_at & learned


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        (("--eval-steps", 2), "there are no validation rows to measure the loss on while training"),
        (("--optim", "adamw_8bit"), "the optimiser `adamw_8bit` needs a package that is not installed"),
        (("--report-to", "clearml"), "reporting to clearml needs a package that is not installed"),
        (("--schedule", "cosine_with_min_lr"), "the schedule cannot be made of its settings"),
        (("--set", "train.precision=float16", "--device", "cpu"), "training in float16 needs a GPU"),
        (("--set", "train.deepspeed=zero2.json"), "`deepspeed` is not a setting here"),
        (("--set", "train.early_stopping=3"), "`early_stopping` is not a setting here"),
    ],
)
@pytest.mark.case("said before the model is loaded")
def test_what_cannot_be_trained_is_said_before_the_model_is_loaded(
    farss, workshop, initialised, tmp_path, monkeypatch, asked, what
):
    from transformers import integrations

    def loaded(*args, **kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(materials, "load", loaded)
    monkeypatch.setattr(integrations, "get_available_reporting_integrations", list)
    for verb in (("train", "--init", initialised), ("run", workshop.recipe("refused"))):
        code, _, err = farss(*verb, *asked, "--out", tmp_path / "out")
        assert code == 2 and what in err
    assert not (tmp_path / "out" / "adapter").exists()


@pytest.mark.case("the published command")
def test_the_published_command_can_be_said(farss, workshop, tmp_path, monkeypatch):
    from transformers import TrainerCallback, integrations
    from transformers.integrations import integration_utils

    class Board(TrainerCallback):
        logging_dir: str | None = None

        def on_train_begin(self, args, state, control, **kwargs):
            from pathlib import Path

            folder = Path(self.logging_dir or "")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "events").write_text(f"warm-up {args.warmup_steps:g}")

    monkeypatch.setattr(integrations, "get_available_reporting_integrations", lambda: ["tensorboard"])
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "tensorboard", Board)
    rows = ("--split", "train[:7]", "--template", "alpaca")
    first = ("--calibration-rows", 3, "--calibration-order", "first")
    recipe = workshop.recipe("published", **{"data.max_length": 220})
    code, _, err = farss("init", "--recipe", recipe, *rows, *first, "--method", "farss", "--out", tmp_path / "init")
    assert code == 0, err
    plan = Plan.load(tmp_path / "init" / "plan.json")
    asked = recipe_of(tmp_path / "init")
    training = materials.training_examples(asked, materials.tokenizer_of(asked))
    from farss.model.calibration import data_fingerprint

    assert plan.data is not None
    assert plan.data["sha256"] == data_fingerprint(training[:3], plan.data["seed"])["sha256"] and len(training) == 7
    shown = ("--warmup-steps", 1, "--report-to", "tensorboard", "--batch-size", 2)
    code, _, err = farss("train", "--init", tmp_path / "init", *shown, "--out", tmp_path / "trained")
    assert code == 0, err
    assert (tmp_path / "trained" / "checkpoints" / "logs" / "events").read_text() == "warm-up 1"
    kept = yaml.safe_load((tmp_path / "trained" / "recipe.yaml").read_text())
    assert kept["train"]["warmup_steps"] == 1 and kept["data"]["split"] == "train[:7]"
    code, _, err = farss("train", "--init", tmp_path / "init", *shown, "--fresh", "--out", tmp_path / "trained")
    assert code == 0, err
