"""Both engines of `farss init` decide the same, and an interrupted call ends as if it had not been."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from farss.adapters.files import load_adapter
from farss.experiment.initialisation import outlook
from farss.methods import get_method
from farss.methods.statistics import statistics_of
from farss.model.plan import Plan


def init(farss, workshop, out, *more, method="farss"):
    arguments = ("--recipe", workshop.recipe(), "--method", method, "--out", out)
    return farss("init", *arguments, "--json", *more)


@pytest.mark.parametrize("method", ["farss", "farss-init", "pissa", "milora", "lora", "kasa", "adalora"])
def test_the_streamed_engine_plans_and_starts_as_the_resident_one(farss, workshop, tmp_path, method):
    for engine in ("resident", "streamed"):
        code, text, err = init(farss, workshop, tmp_path / engine, "--engine", engine, method=method)
        assert code == 0, err
        assert json.loads(text)["engine"] == engine
    resident, streamed = (Plan.load(tmp_path / engine / "plan.json") for engine in ("resident", "streamed"))
    assert [(t.name, t.rank, t.indices) for t in resident.targets] == [
        (t.name, t.rank, t.indices) for t in streamed.targets
    ]
    assert resident.model_fingerprint == streamed.model_fingerprint and resident.data == streamed.data
    one, other = (load_file(tmp_path / e / "adapter" / "adapter_model.safetensors") for e in ("resident", "streamed"))
    assert one.keys() == other.keys()
    for name, weight in one.items():
        assert torch.allclose(weight, other[name], rtol=0, atol=1e-6), name
    configs = [
        json.loads((tmp_path / e / "adapter" / "adapter_config.json").read_text()) for e in ("resident", "streamed")
    ]
    assert configs[0] == configs[1]


def test_a_streamed_adapter_starts_at_the_base(farss, workshop, tmp_path):
    code, text, _ = init(farss, workshop, tmp_path / "init", "--engine", "streamed")
    assert code == 0 and json.loads(text)["max_logit_difference"] is None
    base = AutoModelForCausalLM.from_pretrained(workshop.model)
    ids = torch.arange(3, 43).reshape(2, 20)
    with torch.no_grad():
        before = base(input_ids=ids).logits
        assert torch.equal(load_adapter(base, tmp_path / "init" / "adapter").eval()(input_ids=ids).logits, before)
    assert not (tmp_path / ".init.work").exists()


def test_what_kasa_drops_is_the_same_from_both_engines(farss, workshop, tmp_path):
    for engine in ("resident", "streamed"):
        code, _, err = init(farss, workshop, tmp_path / engine, "--engine", engine, method="kasa")
        assert code == 0, err
    one, other = (
        load_file(tmp_path / engine / "adapter" / "adapter_model.safetensors") for engine in ("resident", "streamed")
    )
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_residual_form_needs_the_weights(farss, workshop, tmp_path):
    code, _, err = init(farss, workshop, tmp_path / "init", "--engine", "streamed", "--base", "residual")
    assert code == 2 and "use the resident engine" in err
    assert not (tmp_path / "init").exists()


def test_too_little_memory_is_said_before_anything_is_loaded(farss, workshop, tmp_path, monkeypatch):
    monkeypatch.setattr(outlook, "free_bytes", lambda device: 1_000_000)
    code, _, err = init(farss, workshop, tmp_path / "init")
    assert code == 2 and "too little memory" in err and "block by block" in err
    assert not (tmp_path / "init").exists()


def test_what_does_not_fit_is_streamed(farss, workshop, tmp_path, monkeypatch):
    monkeypatch.setattr(outlook, "choose_engine", lambda resident, streamed, available: "streamed")
    code, text, _ = init(farss, workshop, tmp_path / "init")
    assert code == 0 and json.loads(text)["engine"] == "streamed"


@pytest.mark.parametrize("method", ["farss", "corda-ipm"])
def test_rows_longer_than_a_batch_are_foreseen(farss, workshop, tmp_path, monkeypatch, method):
    """A batch of `init.batch_tokens` is not the largest where a row is longer: it is a batch of its own."""
    seen = []
    monkeypatch.setattr(outlook, "choose_engine", lambda resident, *_: seen.append(resident.activations) or "resident")
    for number, tokens in enumerate((1, 2, 10_000)):
        setting = ("--set", f"init.batch_tokens={tokens}")
        assert init(farss, workshop, tmp_path / str(number), *setting, method=method)[0] == 0
    one, two, all_rows = seen
    assert 0 < one == two < all_rows


def test_processes_started_together_all_hold_the_model(farss, workshop, tmp_path, monkeypatch):
    """Each of them decides by its own share of the memory, so a choice between engines could split them."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = init(farss, workshop, tmp_path / "init", "--engine", "streamed")
    assert code == 2 and "works in one process" in err and "got: 2 processes" in err
    monkeypatch.setattr(outlook, "free_bytes", lambda device: 1_000_000)
    code, _, err = init(farss, workshop, tmp_path / "init")
    assert code == 2 and "too little memory" in err and "block by block" not in err
    assert not (tmp_path / "init").exists()


@pytest.mark.parametrize(
    ("method", "what"),
    [
        ("fora", "layer_fisher"),
        ("lora-ga", "gradient"),
        ("olora", "start factors"),
        ("eva", "input_covariance"),
        ("dora", "norms of the weights"),
    ],
)
def test_methods_that_cannot_be_streamed_say_so_and_stay_in_memory(
    farss, workshop, tmp_path, monkeypatch, method, what
):
    code, _, err = init(farss, workshop, tmp_path / "init", "--engine", "streamed", method=method)
    assert code == 2 and f"the streamed engine does not take {what}" in err and "use the resident engine" in err
    monkeypatch.setattr(outlook, "free_bytes", lambda device: 1_000_000)
    code, _, err = init(farss, workshop, tmp_path / "init", method=method)
    assert code == 2 and "too little memory" in err and "block by block" not in err
    assert not (tmp_path / "init").exists()


@pytest.mark.parametrize("method", ["olora", "lora-null-v2", "eva"])
def test_a_plan_with_factors_of_its_own_can_be_obeyed_block_by_block(farss, workshop, tmp_path, method):
    recipe = workshop.recipe("own", **{"data.knowledge_calibration": "facts"})
    first, again = tmp_path / "first", tmp_path / "again"
    assert farss("init", "--recipe", recipe, "--method", method, "--out", first)[0] == 0
    obey = ("--plan", first / "plan.json", "--engine", "streamed", "--out", again)
    code, _, err = farss("init", "--recipe", recipe, *obey)
    assert code == 0, err
    for file in ("adapter/adapter_model.safetensors", "plan.safetensors"):
        one, other = load_file(first / file), load_file(again / file)
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def double(workshop):
    return workshop.recipe("double", **{"model.dtype": "float64"})


@pytest.mark.parametrize("method", ["farss", "corda-kpm", "corda-ipm", "lora-ga", "fora"])
def test_merged_shards_plan_as_one_process_does(farss, workshop, tmp_path, method):
    (statistic,) = statistics_of([get_method(method)]).values()
    settings = {"model.dtype": "float64", "data.knowledge_calibration": "facts"}
    asked = ("init", "--recipe", workshop.recipe("double", **settings), "--method", method)
    assert farss(*asked, "--out", tmp_path / "whole")[0] == 0
    for number in (1, 2):
        code, out, err = farss(*asked, "--shard", f"{number}/2", "--out", tmp_path / f"part{number}")
        assert code == 0, err
        assert f"shard {number}/2:" in out and statistic.filename in out
    merged = tmp_path / "merged.safetensors"
    code, out, _ = farss("merge-stats", tmp_path / "part2", tmp_path / "part1", "--out", merged)
    assert code == 0 and f"{statistic.name}: 2 of 2 shards: whole" in out
    whole, sums = load_file(tmp_path / "whole" / statistic.filename), load_file(merged)
    assert whole.keys() == sums.keys()
    for name, value in whole.items():
        assert torch.allclose(value, sums[name], rtol=1e-11, atol=1e-13 * float(value.abs().max())), name
    # Data of another task would give another plan, if they were read.
    assert farss(*asked, "--stats", merged, "--calibration-rows", 2, "--out", tmp_path / "again")[0] == 0
    one, other = (Plan.load(tmp_path / place / "plan.json") for place in ("whole", "again"))
    assert [(t.name, t.rank, t.indices) for t in one.targets] == [(t.name, t.rank, t.indices) for t in other.targets]
    assert one.data == other.data and one.layer_scores == pytest.approx(other.layer_scores)


def test_a_method_without_data_has_no_shards(farss, workshop, tmp_path):
    code, _, err = farss(
        "init", "--recipe", double(workshop), "--method", "pissa", "--shard", "1/2", "--out", tmp_path / "part"
    )
    assert code == 2 and "planned without data" in err and not (tmp_path / "part").exists()


def test_statistics_that_the_method_does_not_read_are_refused(farss, workshop, tmp_path):
    assert farss("init", "--recipe", double(workshop), "--out", tmp_path / "curvature")[0] == 0
    asked = ("init", "--recipe", double(workshop), "--method", "corda-kpm", "--stats", tmp_path / "curvature")
    code, _, err = farss(*asked, "--out", tmp_path / "init")
    assert code == 2 and "not those that the method is planned from" in err and "knowledge_covariance" in err


def test_what_cannot_be_merged_or_used_is_refused(farss, workshop, tmp_path):
    recipe = double(workshop)
    assert farss("init", "--recipe", recipe, "--shard", "1/2", "--out", tmp_path / "one")[0] == 0
    merged = tmp_path / "merged.safetensors"
    code, _, err = farss("merge-stats", tmp_path / "one", tmp_path / "one", "--out", merged)
    assert code == 2 and "a shard comes twice" in err and not merged.exists()
    code, _, err = farss("init", "--recipe", recipe, "--stats", tmp_path / "one", "--out", tmp_path / "init")
    assert code == 2 and "lack shards" in err and "2/2" in err
    other = workshop.recipe("other", **{"model.name": str(workshop.other), "model.dtype": "float64"})
    assert farss("init", "--recipe", other, "--shard", "2/2", "--out", tmp_path / "two")[0] == 0
    code, _, err = farss("merge-stats", tmp_path / "one", tmp_path / "two", "--out", merged)
    assert code == 2 and "differ in their model" in err
    code, _, err = farss("init", "--recipe", recipe, "--shard", "3/2", "--out", tmp_path / "three")
    assert code == 2 and "no such shard" in err
    code, _, err = farss("init", "--recipe", recipe, "--shard", "7/9", "--out", tmp_path / "seven")
    assert code == 2 and "fewer calibration examples than shards" in err
    code, _, err = farss("init", "--recipe", recipe, "--shard", "two", "--out", tmp_path / "three")
    assert code == 2 and "written as I/N" in err


def test_two_processes_started_together_plan_as_one(farss, workshop, tmp_path):
    recipe = double(workshop)
    assert farss("init", "--recipe", recipe, "--out", tmp_path / "whole")[0] == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "farss", "init", "--recipe", recipe, "--out", str(tmp_path / "crew")]
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"OMP_NUM_THREADS": "1", "FARSS_CACHE": str(tmp_path / "cache")}
    processes = [
        subprocess.Popen(command, env={**common, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    answers = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert "trainable parameters" in answers[0] and not answers[1]
    whole, sums = (load_file(tmp_path / place / "stats.safetensors") for place in ("whole", "crew"))
    for name, value in whole.items():
        assert torch.allclose(value, sums[name], rtol=1e-11, atol=0), name
    one, other = (Plan.load(tmp_path / place / "plan.json") for place in ("whole", "crew"))
    assert [(t.name, t.rank, t.indices) for t in one.targets] == [(t.name, t.rank, t.indices) for t in other.targets]
    assert not (tmp_path / ".crew.work").exists()


@pytest.mark.parametrize(
    ("method", "says"), [("farss", "tokens"), ("pissa", "with nothing cached"), ("lora", "resident engine")]
)
def test_what_is_expected_is_said_before_the_work(farss, workshop, tmp_path, method, says):
    code, text, err = init(farss, workshop, tmp_path / "init", method=method)
    assert code == 0
    said = next(line for line in err.splitlines() if line.startswith("predicted: peak memory"))
    assert says in said and err.index(said) < err.find("statistics: ") % len(err)  # before the pass, where there is one
    expected = json.loads(text)
    assert expected["predicted_peak_bytes"] > 0
    assert (expected["predicted_seconds"] is None) == (method == "lora")


def test_a_forecast_grows_with_the_tokens_and_by_streaming(workshop):
    from farss.config import Recipe
    from farss.experiment.initialisation.outlook import forecast, outlook

    seen = outlook(Recipe.from_yaml(workshop.recipe()))
    none = forecast(seen, "resident", 0, decomposes=False)
    assert none.seconds is None and none.peak_bytes == seen.resident.peak
    few, many = (forecast(seen, "resident", tokens, decomposes=False).seconds for tokens in (1_000, 1_000_000))
    assert 0 < few < many
    assert forecast(seen, "streamed", 10, decomposes=False).peak_bytes == seen.streamed.peak


def test_a_block_without_targets_is_walked_through(farss, workshop, tmp_path):
    layer = r"init.exclude=['model\.layers\.1\..*']"
    for engine in ("resident", "streamed"):
        code, _, err = init(farss, workshop, tmp_path / engine, "--engine", engine, "--set", layer)
        assert code == 0, err
    one, other = (Plan.load(tmp_path / engine / "plan.json") for engine in ("resident", "streamed"))
    assert {t.layer for t in one.targets} == {0, 2}
    assert [(t.name, t.rank, t.indices) for t in one.targets] == [(t.name, t.rank, t.indices) for t in other.targets]
