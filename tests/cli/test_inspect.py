"""`farss inspect` end to end: what it leaves, that its numbers are those of init and of each other, what it refuses."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch

from farss.cli.main import main
from farss.experiment.initialisation import outlook
from farss.experiment.initialisation.statistics import load_statistics, save_statistics
from farss.experiment.inspection import looking
from farss.experiment.inspection.portrait import RANKS
from farss.model.plan import Plan
from farss.report.inspection import render
from farss.statistics.curvature import Curvature


@pytest.fixture(scope="module")
def inspected(workshop) -> Path:
    folder = workshop.folder / "inspected"
    assert main(["inspect", "--recipe", double(workshop), "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def report(inspected) -> dict:
    return json.loads((inspected / "inspect.json").read_text(encoding="utf-8"))


def double(workshop) -> str:
    return workshop.recipe("double", **{"model.dtype": "float64"})


def test_it_leaves_page_figures_and_recipe(inspected, report):
    left = {"inspect.html", "inspect.json", "recipe.yaml", ".farss.json"}
    assert {path.name for path in inspected.iterdir()} == left
    assert (inspected / "inspect.html").read_text(encoding="utf-8") == render(report)
    assert not inspected.with_name(".inspected.work").exists()


def test_every_module_is_described(report):
    rows = report["targets"]
    assert len(rows) == report["modules"] == 3 * 7
    first = rows[0]
    assert first["name"] == "model.layers.0.self_attn.q_proj"
    assert (first["layer"], first["kind"], first["shape"], first["region"]) == (0, "q_proj", [32, 32], "shallow")
    for row in rows:
        k = min(row["shape"])
        assert row["importance"] > 0 and 0 < row["energy_weight"] < 1
        assert 1 <= row["directions_held"] <= k == row["directions"]
        assert len(row["selected"]) == row["rank"] and len(row["stability"]["ranks"]) == 2
        assert len(row["log_score_quantiles"]) == 5
        assert 0 <= row["stability"]["jaccard"] <= row["stability"]["overlap"] <= 1


def test_hidden_states_are_described_where_they_were_seen(report):
    kinds = {row["kind"]: row["energy_input"] for row in report["targets"] if row["layer"] == 1}
    assert kinds["down_proj"] is None  # wide and alone: only what it gives out was kept
    assert kinds["q_proj"] == kinds["k_proj"] == kinds["v_proj"] != kinds["o_proj"]
    assert kinds["gate_proj"] == kinds["up_proj"]
    layer = report["layers"][1]
    expected = (kinds["q_proj"] + kinds["o_proj"] + kinds["gate_proj"]) / 3
    assert layer["energy_inputs"] == pytest.approx(expected)
    mine = [row["importance"] for row in report["targets"] if row["layer"] == 1]
    assert layer["importance"] == pytest.approx(sum(mine))


def test_the_halves_are_the_whole_that_init_decides_from(farss, workshop, report, tmp_path):
    assert farss("init", "--recipe", double(workshop), "--out", tmp_path / "init")[0] == 0
    plan = Plan.load(tmp_path / "init" / "plan.json")
    rows = report["targets"]
    assert [(t.name, t.rank, list(t.indices or ())) for t in plan.targets] == [
        (row["name"], row["rank"], row["selected"]) for row in rows
    ]
    assert [row["importance"] for row in rows] == pytest.approx([t.importance for t in plan.targets], rel=1e-9)
    assert plan.data is not None and report["data"]["sha256"] == plan.data["sha256"]
    statistics = Curvature.load(tmp_path / "init" / "stats.safetensors")
    assert sum(half["tokens"] for half in report["data"]["halves"]) == statistics.tokens == report["data"]["tokens"]
    states = statistics.input_moment("model.layers.0.self_attn.k_proj")
    assert states is not None
    values = torch.linalg.eigvalsh(states)
    assert rows[1]["energy_input"] == pytest.approx(float(values[-5:].sum() / values.sum()))


def test_stability_compares_the_plans_of_the_halves(farss, workshop, report, tmp_path):
    plans = []
    for number in (1, 2):
        part = tmp_path / f"part{number}"
        recipe = double(workshop)
        assert farss("init", "--recipe", recipe, "--shard", f"{number}/2", "--out", part)[0] == 0
        stats = part / "stats.safetensors"
        curvature, origin = load_statistics(stats)
        save_statistics(curvature, dataclasses.replace(origin, shards=(1,), count=1), stats)
        assert farss("init", "--recipe", recipe, "--stats", stats, "--out", tmp_path / f"init{number}")[0] == 0
        plans.append(Plan.load(tmp_path / f"init{number}" / "plan.json"))
    for row, one, two in zip(report["targets"], plans[0].targets, plans[1].targets, strict=True):
        first, second = set(one.indices or ()), set(two.indices or ())
        assert row["stability"]["ranks"] == [one.rank, two.rank]
        assert row["stability"]["overlap"] == len(first & second) / min(len(first), len(second))
        assert row["stability"]["jaccard"] == len(first & second) / len(first | second)


def test_boundary_costs_and_predictions(report, workshop):
    boundary = report["boundary"]
    assert boundary["planned"] == 1 and boundary["default"] == 1
    assert boundary["suggested"] == (boundary["split"] if boundary["factor"] > 1 else 1)
    assert 0 <= boundary["default_gain"] <= boundary["gain"] <= 1
    costs = {row["rank"]: row for row in report["costs"]}
    assert list(costs) == [None, *RANKS]
    by_hand = 3 * 8 * (64 + 48 + 48 + 64 + 80 + 80 + 80)
    assert costs[8]["trainable_params"] == by_hand and costs[8]["adapter_bytes"] == 8 * by_hand
    assert costs[64]["trainable_params"] == costs[128]["trainable_params"]  # no module has so many directions
    assert costs[8]["share"] == by_hand / report["model"]["parameters"]
    memory = report["predicted"]["memory"]
    assert memory["inspect"]["moments"] == 2 * memory["resident"]["moments"] and memory["streamed"]["peak"] > 0
    predicted, measured = report["predicted"]["seconds"], report["measured"]["seconds"]
    assert set(predicted) == set(measured) and min(*predicted.values(), *measured.values()) >= 0
    assert predicted["total"] == pytest.approx(sum(predicted.values()) - predicted["total"])


def test_too_few_tokens_are_said(farss, workshop, tmp_path):
    recipe = workshop.recipe("few", **{"data.calibration_rows": 2, "data.max_length": 31})
    code, out, err = farss("inspect", "--recipe", recipe, "--out", tmp_path / "few")
    assert code == 0, err
    assert "Too few tokens" in out and "has 31" in out
    page = (tmp_path / "few" / "inspect.html").read_text(encoding="utf-8")
    assert page.count('class="warning"') == len(json.loads((tmp_path / "few" / "inspect.json").read_text())["warnings"])


def test_terminal_and_json(farss, workshop, tmp_path):
    code, out, err = farss("inspect", "--recipe", workshop.recipe(), "--out", tmp_path / "one")
    assert code == 0, err
    assert "importance" in out and "default rule" in out and "trained parameters" in out and "inspect.html" in out
    assert re.search(r"predicted: peak memory .* on cpu, .* for \d+ tokens", err)
    code, out, _ = farss("inspect", "--recipe", workshop.recipe(), "--out", tmp_path / "two", "--json")
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "two" / "inspect.json").read_text(encoding="utf-8"))
    assert json.loads(out)["measured"]["decomposed"] == 0  # the first call kept the spectra


def test_an_occupied_folder_is_refused(farss, workshop, inspected):
    before = (inspected / "inspect.json").read_bytes()
    code, out, err = farss("inspect", "--recipe", double(workshop), "--out", inspected)
    assert (code, out) == (2, "") and "not empty" in err
    assert (inspected / "inspect.json").read_bytes() == before


REFUSED = {
    "one row": ({"data.calibration_rows": 1}, "fewer calibration examples than shards"),
    "published code": ({"init.compat": "published-code"}, "cannot be divided in halves"),
    "more shallow layers than layers": ({"init.shallow_layers": 4}, "more shallow layers than layers"),
    "missing data": ({"data.task": "gsm8kk"}, "did you mean `gsm8k`?"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_requests_are_refused(farss, workshop, tmp_path, case):
    changes, message = REFUSED[case]
    code, out, err = farss("inspect", "--recipe", workshop.recipe("wrong", **changes), "--out", tmp_path / "out")
    assert (code, out) == (2, "") and message in err
    assert not (tmp_path / "out").exists()


def assert_the_same_look(one: dict, other: dict, relative: float):
    """Everything but times, memory and the recipe; numbers up to `relative`."""
    for key in ("model", "data", "modules", "warnings", "costs"):
        assert one[key] == other[key], key
    assert numbers(one) == pytest.approx(numbers(other), rel=relative, abs=1e-12)
    for mine, its in zip(one["targets"], other["targets"], strict=True):
        assert (mine["name"], mine["rank"], mine["selected"]) == (its["name"], its["rank"], its["selected"])


def numbers(report: dict) -> dict[str, float]:
    """Every number of the findings, by where it stands."""
    found: dict[str, float] = {}

    def walk(value, place: str):
        if isinstance(value, dict | list):
            for key, each in value.items() if isinstance(value, dict) else enumerate(value):
                walk(each, f"{place}/{key}")
        elif isinstance(value, int | float):
            found[place] = value

    for key in ("boundary", "stability", "layers", "targets", "spectra"):
        walk(report[key], key)
    return found


def test_a_look_block_by_block_finds_the_same(farss, workshop, report, tmp_path):
    code, _, err = farss("inspect", "--recipe", double(workshop), "--out", tmp_path / "out", "--engine", "streamed")
    assert code == 0 and "streamed engine" in err, err
    streamed = json.loads((tmp_path / "out" / "inspect.json").read_text(encoding="utf-8"))
    assert len(numbers(report)) > 500
    assert_the_same_look(streamed, report, 1e-9)
    assert (streamed["predicted"]["engine"], report["predicted"]["engine"]) == ("streamed", "resident")
    memory = streamed["predicted"]["memory"]
    assert memory["inspect"]["moments"] == 2 * memory["streamed"]["moments"]
    page = (tmp_path / "out" / "inspect.html").read_text(encoding="utf-8")
    assert "this inspection, block by block" in page and "this inspection, model in memory" in render(report)
    assert not (tmp_path / ".out.work").exists()


def test_a_sampled_fisher_draws_the_same_block_by_block(farss, workshop, tmp_path):
    recipe = workshop.recipe("sampled", **{"model.dtype": "float64", "init.fisher": "sampled"})
    reports = {}
    for engine in ("resident", "streamed"):
        assert farss("inspect", "--recipe", recipe, "--out", tmp_path / engine, "--engine", engine)[0] == 0
        reports[engine] = json.loads((tmp_path / engine / "inspect.json").read_text(encoding="utf-8"))
    assert_the_same_look(reports["streamed"], reports["resident"], 1e-9)


def test_what_does_not_fit_is_looked_at_block_by_block_or_refused(farss, workshop, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(outlook, "choose_engine", lambda resident, streamed, available: "streamed")
        code, _, err = farss("inspect", "--recipe", workshop.recipe(), "--out", tmp_path / "streamed")
        assert code == 0 and "streamed engine" in err
    monkeypatch.setattr(outlook, "free_bytes", lambda device: 1_000_000)
    code, _, err = farss("inspect", "--recipe", workshop.recipe(), "--out", tmp_path / "out")
    assert code == 2 and "too little memory" in err
    assert re.search(r"expected: \d+ MB .*, \d+ MB block by block", err)
    assert not (tmp_path / "out").exists()
    code, _, err = farss("inspect", "--recipe", workshop.recipe(), "--out", tmp_path / "out", "--engine", "resident")
    assert code == 0, err


def test_an_interrupted_look_block_by_block_goes_on_and_ends_the_same(farss, workshop, tmp_path, monkeypatch):
    arguments = ("inspect", "--recipe", workshop.recipe(), "--engine", "streamed", "--out")
    assert farss(*arguments, tmp_path / "whole")[0] == 0
    digest, looked_at = looking.LookedAtBlocks.digest, []

    def counting(self, targets, parts):
        looked_at.append(targets[0].layer)
        if looked_at == [2, 1]:
            raise KeyboardInterrupt
        return digest(self, targets, parts)

    monkeypatch.setattr(looking.LookedAtBlocks, "digest", counting)
    assert farss(*arguments, tmp_path / "again")[0] == 130
    assert not (tmp_path / "again").exists()
    assert farss(*arguments, tmp_path / "again")[0] == 0
    assert looked_at == [2, 1, 1, 0]
    one, two = (json.loads((tmp_path / name / "inspect.json").read_text()) for name in ("whole", "again"))
    for key in ("data", "boundary", "stability", "layers", "targets", "spectra"):
        assert one[key] == two[key], key
    modules = sum(row["layer"] == 2 for row in one["targets"])
    assert [report["measured"]["restored"] for report in (one, two)] == [0, modules]
    page = " ".join((tmp_path / "again" / "inspect.html").read_text().split())
    assert f">{modules}</data> were looked at by an interrupted call" in page


def test_an_interrupted_call_goes_on_and_ends_the_same(farss, workshop, tmp_path, monkeypatch):
    recipe = workshop.recipe("small-batches", **{"init.batch_tokens": 64})
    assert farss("inspect", "--recipe", recipe, "--out", tmp_path / "whole")[0] == 0

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("farss.statistics.keeping.KEEP_SECONDS", 0.0)
        patch.setattr(looking.Scorer, "score", interrupted)
        assert farss("inspect", "--recipe", recipe, "--out", tmp_path / "again")[0] == 130
    assert (tmp_path / ".again.work" / "half-2.safetensors").is_file() and not (tmp_path / "again").exists()
    code, out, _ = farss("inspect", "--recipe", recipe, "--out", tmp_path / "again")
    assert code == 0
    one, two = (json.loads((tmp_path / name / "inspect.json").read_text()) for name in ("whole", "again"))
    assert one["targets"] == two["targets"] and one["layers"] == two["layers"]
    none, rows = (report["measured"]["restored_rows"] for report in (one, two))
    assert none == 0 < rows < sum(half["rows"] for half in two["data"]["halves"])  # the last batches were not kept
    page = " ".join((tmp_path / "again" / "inspect.html").read_text().split())
    said = f"{rows} examples were read by an interrupted call, whose time is not counted"
    assert said in " ".join(out.split()) and f">{rows}</data> examples were read by an interrupted call" in page
