"""`farss compare` over a run and models that other programs trained: the same questions, measures and frontier."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from farss.cli.main import main
from farss.model.fingerprints import files_hash
from farss.report import validate

FULL = "full-lr0.01-seed0"
MEASURES = ("K_p", "T_l", "KT_l")


@pytest.fixture(scope="module")
def run_folder(workshop) -> Path:
    folder = workshop.folder / "run-elsewhere"
    assert main(["run", workshop.recipe("elsewhere", methods=["full", "lora"]), "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def by_trl(workshop) -> Path:
    """A LoRA adapter from a script that knows TRL alone, with an update that can be seen."""
    import datasets
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    rows = [{"prompt": f"What is {n}+2?", "completion": f" {n + 2}"} for n in range(8)]
    out = workshop.folder / "trl"
    settings = SFTConfig(
        output_dir=str(out), max_steps=4, learning_rate=3e-2, per_device_train_batch_size=4, report_to=[],
        save_strategy="no", disable_tqdm=True, use_cpu=True, bf16=False, seed=0,
    )  # fmt: skip
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(workshop.model, dtype="float32"),
        args=settings,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(workshop.model),
        peft_config=LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.train()
    trainer.save_model(str(workshop.folder / "my-trl-adapter"))
    return workshop.folder / "my-trl-adapter"


@pytest.fixture(scope="module")
def merged(workshop, by_trl) -> Path:
    """The same, merged into a whole model by PEFT."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(workshop.model, dtype="float32")
    folder = workshop.folder / "my-merged-model"
    PeftModel.from_pretrained(base, str(by_trl)).merge_and_unload().save_pretrained(folder)
    AutoTokenizer.from_pretrained(workshop.model).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def compared(workshop, run_folder, by_trl, merged) -> Path:
    out = workshop.folder / "everything"
    assert main(["compare", *map(str, (run_folder, by_trl, merged)), "--out", str(out)]) == 0
    return out


def entries(folder: Path) -> dict[str, dict]:
    report = json.loads((folder / "report.json").read_text())
    validate(report)
    return {run["id"]: run for run in report["runs"]}


def test_all_have_what_was_kept_and_gained_with_intervals_and_a_frontier(compared):
    runs = entries(compared)
    assert list(runs) == [FULL, "lora-lr0.01-seed0", "my-trl-adapter", "my-merged-model"]
    for run in runs.values():
        assert all(run["compared"][name]["low"] is not None for name in MEASURES)
        assert run["frontier_area"] is not None
        assert [point["scale"] for point in run["frontier"]] == [0, 0.5, 1]
        assert run["frontier"][0]["K_p"]["value"] == pytest.approx(1)
    assert [run.get("trained_elsewhere") for run in runs.values()] == [None, None, "adapter", "model"]
    report = json.loads((compared / "report.json").read_text())
    pairs = {(row["a"], row["b"]) for row in report["comparisons"]}
    assert len(pairs) == 6 and ("my-trl-adapter", "my-merged-model") in pairs
    assert {"my-trl-adapter", "my-merged-model"} < set(report["differences"]["methods"])
    assert len(report["differences"]["measures"]["KT_l"]["pairs"]) == 6


def test_an_adapter_and_the_model_it_was_merged_into_are_measured_alike(compared):
    runs = entries(compared)
    one, other = runs["my-trl-adapter"], runs["my-merged-model"]
    for name in MEASURES:
        assert one["compared"][name]["value"] == pytest.approx(other["compared"][name]["value"], abs=1e-4)
    assert one["compared"]["T_l"]["value"] != pytest.approx(0, abs=1e-3)  # something was learned, or unlearned
    for a, b in zip(one["frontier"], other["frontier"], strict=True):
        assert a["K_p"]["value"] == pytest.approx(b["K_p"]["value"], abs=1e-4)


def test_the_export_of_a_job_is_measured_as_the_job_itself(farss, run_folder, tmp_path):
    job = "lora-lr0.01-seed0"
    exported = shutil.copytree(run_folder / job / "train" / "peft", tmp_path / "exported")
    whole = shutil.copytree(run_folder / FULL / "train" / "model", tmp_path / "whole")
    code, _, err = farss("compare", run_folder, exported, whole, "--out", tmp_path / "both")
    assert code == 0, err
    runs = entries(tmp_path / "both")
    for name, own in (("exported", job), ("whole", FULL)):
        assert runs[name]["scores"] == runs[own]["scores"]
        assert runs[name]["compared"] == runs[own]["compared"]
        assert runs[name]["frontier"] == runs[own]["frontier"]


def test_a_second_call_measures_what_is_new_alone(farss, workshop, compared, run_folder, by_trl, merged, tmp_path):
    before = {file: file.stat().st_mtime_ns for file in compared.rglob("done.json")}
    copy = shutil.copytree(by_trl, workshop.folder / "another")
    code, out, err = farss("compare", run_folder, by_trl, merged, copy, "--out", compared)
    assert code == 0, err
    after = {file: file.stat().st_mtime_ns for file in compared.rglob("done.json")}
    assert before.items() < after.items() and len(after) == len(before) + 1
    assert "another" in out


def test_an_adapter_of_another_kind_has_a_frontier_too(farss, workshop, run_folder, tmp_path):
    from peft import IA3Config, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(workshop.model, dtype="float32")
    config = IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])
    model = get_peft_model(base, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ia3_" in name:
                parameter.mul_(1.5)
    model.save_pretrained(tmp_path / "ia3")
    code, _, err = farss("compare", run_folder, tmp_path / "ia3", "--out", tmp_path / "out")
    assert code == 0, err
    run = entries(tmp_path / "out")["ia3"]
    kept = [point["K_p"]["value"] for point in run["frontier"]]
    assert kept[0] == pytest.approx(1) and kept[1] != pytest.approx(1, abs=1e-4)
    assert run["compared"]["K_p"]["value"] == pytest.approx(kept[2], abs=0.2)


def test_nothing_that_is_compared_is_changed(workshop, run_folder, by_trl, merged, compared):
    for folder in (workshop.model, by_trl, merged):
        assert not (folder / ".farss.json").exists() and not (folder / "done.json").exists()
    assert load_file(merged / "model.safetensors").keys() == load_file(workshop.model / "model.safetensors").keys()
    assert files_hash(by_trl) == files_hash(workshop.folder / "another")


def test_what_cannot_be_compared_is_refused_by_name(farss, workshop, run_folder, by_trl, tmp_path):
    code, _, err = farss("compare", by_trl, "--out", tmp_path / "a")
    assert code == 2 and "nothing says what these models are to be asked" in err
    (tmp_path / "empty").mkdir()
    code, _, err = farss("compare", run_folder, tmp_path / "empty", "--out", tmp_path / "b")
    assert code == 2 and "not a run folder" in err and "of an adapter" in err
    code, _, err = farss("compare", run_folder, by_trl, by_trl, "--out", tmp_path / "c")
    assert code == 2 and "named twice" in err
    code, _, err = farss("compare", run_folder, by_trl, "--out", by_trl)
    assert code == 2
    broken = Path(shutil.copytree(by_trl, tmp_path / "broken"))
    (broken / "adapter_model.safetensors").write_bytes(b"no tensors")
    code, _, err = farss("compare", run_folder, broken, "--out", tmp_path / "d")
    assert code == 2 and "broken" in err
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists() and not (tmp_path / "c").exists()
