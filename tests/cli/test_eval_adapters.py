"""`farss eval` with several adapters: one base model in memory, the scores of each as if measured alone."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from farss.evaluation.records import Measurement
from farss.experiment import materials
from farss.experiment.scoring import telling_names


@pytest.fixture(scope="module")
def adapters(workshop, tmp_path_factory):
    """Two trained adapters."""
    from farss.cli.main import main

    folder = tmp_path_factory.mktemp("adapters")
    for method in ("lora", "farss"):
        start, trained = folder / f"{method}-init", folder / f"{method}-trained"
        recipe = workshop.recipe(f"adapters-{method}")
        for verb in (
            ("init", "--recipe", recipe, "--method", method, "--out", start),
            ("train", "--init", start, "--recipe", recipe, "--out", trained),
            ("export", "--adapter", trained / "adapter", "--to", "portable", "--out", folder / method),
        ):
            assert main([str(part) for part in verb]) == 0
    return folder


def scores(folder):
    return json.loads((folder / "results.json").read_text())["scores"]


def test_each_is_scored_as_if_alone_and_the_base_is_loaded_once(farss, workshop, adapters, tmp_path, monkeypatch):
    asked = ("--recipe", workshop.recipe("eval"), "--tasks", "capitals,gsm8k")
    for name, more in (
        ("base", ()),
        ("lora", ("--adapter", adapters / "lora")),
        ("farss", ("--adapter", adapters / "farss")),
    ):
        assert farss("eval", *asked, *more, "--out", tmp_path / f"alone-{name}")[0] == 0
    loads, load = [], materials.load_model
    monkeypatch.setattr(materials, "load_model", lambda *given: loads.append(1) or load(*given))
    together = ("--adapter", "base", adapters / "lora", adapters / "farss", "--out", tmp_path / "together")
    code, out, err = farss("eval", *asked, *together)
    assert code == 0, err
    assert len(loads) == 1
    result = json.loads((tmp_path / "together" / "results.json").read_text())
    assert list(result["runs"]) == ["base", "lora", "farss"]
    for name, run in result["runs"].items():
        assert run["scores"] == scores(tmp_path / "together" / name) == scores(tmp_path / f"alone-{name}")
        samples = [
            Measurement.load(tmp_path / place / "samples.jsonl.gz") for place in (f"together/{name}", f"alone-{name}")
        ]
        assert samples[0] == samples[1]
        assert f"{name}:" in out
    assert result["runs"]["lora"]["scores"] != result["runs"]["farss"]["scores"]


def test_an_adapter_named_twice_is_refused(farss, workshop, adapters, tmp_path):
    asked = ("--recipe", workshop.recipe("eval"), "--tasks", "capitals", "--out", tmp_path / "out")
    code, _, err = farss("eval", *asked, "--adapter", adapters / "lora", adapters / "farss" / ".." / "lora")
    assert code == 2 and "an adapter comes twice" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("places", "names"),
    [
        (["/a/lora"], ["lora"]),
        (["/a/lora", "/b/pissa"], ["lora", "pissa"]),
        (["/run/lora-seed0/train/peft", "/run/pissa-seed0/train/peft"], ["lora-seed0", "pissa-seed0"]),
        (["/one/lora/peft", "/two/lora/peft"], ["one", "two"]),
        (["/a/x/peft", "/b/x/peft", "/a/y/peft"], ["a-x-peft", "b-x-peft", "a-y-peft"]),
        (["/a/base"], ["a"]),
        ([], []),
    ],
)
def test_names_tell_folders_apart(places, names):
    assert telling_names([Path(place) for place in places]) == names


def test_vllm_gives_the_scores_of_pytorch(farss, workshop, adapters, tmp_path, monkeypatch):
    from farss.config import ModelConfig
    from farss.model.sources import load

    spec = importlib.util.spec_from_file_location(
        "vllm_stub", Path(__file__).parents[1] / "evaluation" / "vllm_stub.py"
    )
    stub = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "vllm_stub", stub)  # its dataclasses look their module up
    spec.loader.exec_module(stub)
    loaded = load(ModelConfig(name=str(workshop.model), dtype="float32"))
    stub.install(monkeypatch, loaded.model, loaded.tokenizer, made := [])
    asked = ("--recipe", workshop.recipe("eval"), "--tasks", "capitals,gsm8k", "--adapter", adapters / "farss")
    for backend in ("torch", "vllm"):
        code, _, err = farss("eval", *asked, "--backend", backend, "--out", tmp_path / backend)
        assert code == 0, err
    one, other = scores(tmp_path / "torch"), scores(tmp_path / "vllm")
    assert one.keys() == other.keys() and len(made) == 1 and made[0]["model"] == str(workshop.model)
    for name in one:
        assert one[name]["value"] == pytest.approx(other[name]["value"], abs=1e-5), name


def test_what_vllm_is_not_asked_is_said(farss, workshop, tmp_path):
    (tmp_path / "x").mkdir()
    asked = ("--tasks", "capitals", "--adapter", "base", tmp_path / "x", "--backend", "vllm")
    code, _, err = farss("eval", "--recipe", workshop.recipe("eval"), *asked, "--out", tmp_path / "out")
    assert code == 2 and "vLLM answers with at most one adapter at a time" in err
    assert not (tmp_path / "out").exists()


def test_vllm_is_not_told_a_device(farss, workshop, tmp_path):
    asked = ("--tasks", "capitals", "--backend", "vllm", "--device", "cpu", "--out", tmp_path / "out")
    code, _, err = farss("eval", "--recipe", workshop.recipe("eval"), *asked)
    assert code == 2 and "vLLM is built for one kind of device" in err
    assert not (tmp_path / "out").exists()
