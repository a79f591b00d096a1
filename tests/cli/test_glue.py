"""`farss glue`: tasks, methods and seeds end to end on an encoder of a few thousand weights."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.cli.conftest import write_rows
from tests.cli.encoders import arguments, reviews, save_encoder

from farss.cli.main import main
from farss.config import DataConfig, HeadConfig, ModelConfig
from farss.datasets.glue import glue_task
from farss.evaluation.glue import load_samples
from farss.experiment.encoders.classification import GLUE_RECIPE, GlueJob, fine_tune
from farss.experiment.jobs import Job
from farss.model import packages
from farss.model.packages import KNOWN_MODELS


def pairs(count: int, seed: int) -> list[dict]:
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        label = draw.randrange(6)
        found.append({"sentence1": "x" * 4, "sentence2": "x" * label + "y", "label": label})
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_tokenizer) -> Iterator[Path]:
    """A folder with `model`, an encoder without a head, and `data`."""
    folder = tmp_path_factory.mktemp("glue")
    save_encoder(folder / "model", tiny_tokenizer)
    for split, rows in (("train", 96), ("validation", 40)):
        write_rows(folder / "data" / "glue" / "sst2" / f"{split}.jsonl.gz", reviews(rows, rows))
        write_rows(folder / "data" / "glue" / "stsb" / f"{split}.jsonl.gz", pairs(rows // 4, rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FARSS_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def finished(place) -> Path:
    assert main(arguments(place, "run")) == 0
    return place / "run"


def test_every_method_learns_and_adapters_leave_the_encoder_alone(finished):
    results = json.loads((finished / "results.json").read_text())
    content = results["tasks"]["sst2"]
    majority = content["majority"]["validation"]["accuracy"]
    assert majority["n"] == 40 and [entry["method"] for entry in content["methods"]] == ["full", "lora", "farss"]
    for entry in content["methods"]:
        scored = entry["scores"]["validation"]["accuracy"]
        assert scored["value"] > majority["value"] + 0.1, entry["method"]
        (run,) = entry["runs"]
        assert run["train_rows"] == 96 and run["warmup_loss"][1] < run["warmup_loss"][0]
        if entry["method"] != "full":
            assert run["encoder_unchanged"] is True and run["start_max_logit_difference"] < 1e-5
            assert run["head_params"] == 32 * 32 + 32 + 2 * 32 + 2
    table = (finished / "table.md").read_text()
    assert table.count("\n| ") == 6 and "(majority)" in table and "sst2 accuracy" in table


def test_the_answers_are_those_of_the_adapter_in_stock_peft(finished, place, tiny_tokenizer):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    folder = finished / "sst2" / "farss-lr0.005-seed0"
    base = AutoModelForSequenceClassification.from_pretrained(place / "model", num_labels=2)
    model = PeftModel.from_pretrained(base, folder / "adapter").eval()
    rows = reviews(40, 40)
    for row, sample in list(zip(rows, load_samples(folder / "samples.jsonl.gz"), strict=True))[:5]:
        with torch.no_grad():
            logits = model(**tiny_tokenizer(row["sentence"], return_tensors="pt")).logits[0]
        assert sample.logits == pytest.approx(logits.tolist(), abs=1e-3)


def test_another_tasks_rows_are_learned_where_labels_agree(place, farss, tmp_path):
    both = [{"sentence1": f"{w} {i}", "sentence2": w, "label": n} for i in range(8) for n, w in enumerate(("aa", "zz"))]
    asked = [{"question": f"{w}?", "sentence": w, "label": n} for n, w in enumerate(("aa", "zz")) for _ in range(3)]
    write_rows(tmp_path / "glue" / "rte" / "train.jsonl.gz", both)
    write_rows(tmp_path / "glue" / "qnli" / "validation.jsonl.gz", asked)
    flags = {"tasks": "qnli", "train_on": "rte", "epochs": 1, "data_dir": tmp_path}
    assert main(arguments(place, "carried", "lora", **flags)) == 0
    results = json.loads((place / "carried" / "results.json").read_text())["tasks"]["qnli"]
    (entry,) = results["methods"]
    assert entry["runs"][0]["train_rows"] == 16 and entry["scores"]["validation"]["accuracy"]["n"] == 6
    code, _, err = farss(*arguments(place, "mixed", "lora", tasks="stsb", train_on="sst2", data_dir=tmp_path))
    assert code == 2 and "a classifier of one task cannot answer another one with other labels" in err
    assert not (place / "mixed").exists()


def test_what_is_finished_is_not_done_again(finished, place, farss):
    before = {file: file.stat().st_mtime_ns for file in finished.rglob("done.json")}
    assert len(before) == 3
    code, out, _ = farss(*arguments(place, "run", "lora,farss,full,pissa"), "--json")
    assert code == 0 and len(json.loads(out)["tasks"]["sst2"]["methods"]) == 4
    after = {file: file.stat().st_mtime_ns for file in finished.rglob("done.json")}
    assert len(after) == 4 and all(after[file] == before[file] for file in before)


def test_a_replaced_encoder_or_data_file_is_refused(finished, place, farss):
    before = {file: file.stat().st_mtime_ns for file in finished.rglob("*") if file.is_file()}
    split = place / "data" / "glue" / "sst2" / "validation.jsonl.gz"
    for file, what in ((place / "model" / "config.json", "model "), (split, "validation rows of sst2")):
        kept = file.read_bytes()
        try:
            if file is split:
                write_rows(split, reviews(40, 41))
            else:
                file.write_bytes(kept + b"\n")
            code, _, err = farss(*arguments(place, "run"))
        finally:
            file.write_bytes(kept)
        assert code == 2 and "an input changed since this run was begun" in err and what in err
    assert {file: file.stat().st_mtime_ns for file in finished.rglob("*") if file.is_file()} == before


def test_a_regression_in_memory(place, tmp_path):
    recipe = dataclasses.replace(
        GLUE_RECIPE,
        model=ModelConfig(name=str(place / "model")),
        data=DataConfig(data_dir=str(place / "data"), max_length=32, calibration_rows=8),
    )
    recipe = recipe.override({"init.rank": 4, "train.epochs": 2})
    job = GlueJob(glue_task("stsb"), Job("farss", 5e-3, 0), HeadConfig(warmup_steps=5))
    account = fine_tune(recipe, job, tmp_path)
    assert account["curve"][-1][1] < account["curve"][0][1] and account["encoder_unchanged"]
    samples = load_samples(tmp_path / "samples.jsonl.gz")
    assert len(samples) == 10 and all(s.logits == (s.prediction,) for s in samples)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": "sst-2"}, "unknown GLUE task"),
        ({"tasks": ","}, "name at least one task of GLUE"),
        ({"tasks": "rte"}, "the data set was not found"),
        ({"splits": ","}, "at least one value is needed, each once"),
        ({"splits": "validation,validation"}, "at least one value is needed, each once"),
        ({"splits": "adversarial"}, "the data set was not found"),
        ({"methods": "lora-null"}, "statistics of knowledge questions"),
        ({"set": "init.compat=published-code"}, "no batches for classifiers"),
        ({"set": "select=validation"}, "no trial is selected on GLUE"),
        ({"lr": "fast"}, "a list of numbers is expected"),
        ({"head_warmup_steps": -1}, "the number of steps cannot be negative"),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_loaded(changes, message, place, farss):
    code, _, err = farss(*arguments(place, "refused", **changes))
    assert code == 2 and message in err
    assert not (place / "refused").exists()


@pytest.mark.slow
@pytest.mark.skipif(packages.package_files(KNOWN_MODELS["minilm-l6"]) is None, reason="its package is not installed")
def test_the_packaged_encoder_learns_reviews(tmp_path, shared_data):
    recipe = dataclasses.replace(GLUE_RECIPE, data=DataConfig(data_dir=str(shared_data), train_rows=256, max_length=64))
    recipe = recipe.override({"train.epochs": 2, "eval.task_rows": 100, "data.calibration_rows": 32})
    job = GlueJob(glue_task("sst2"), Job("farss", 5e-4, 0), HeadConfig(warmup_steps=10))
    account = fine_tune(recipe, job, tmp_path)
    samples = load_samples(tmp_path / "samples.jsonl.gz")
    assert account["start_max_logit_difference"] < 1e-5 and account["encoder_unchanged"]
    assert sum(s.prediction == s.label for s in samples) > 60  # of 100: chance is 50 with a standard error of 5
