"""Numbers of tiny runs that a change of structure must not change: every method, both engines, shards, audit and GLUE.

`golden.json` holds them. After a change of the mathematics that is meant, `FARSS_RECORD=1 pytest -m slow` on this file
writes it anew; the difference that git then shows is what changed.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.cli.encoders import arguments, reviews, save_encoder

from farss.adapters.files import WEIGHTS_FILE
from farss.cli.main import main
from farss.methods import METHODS

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).with_name("golden.json")
TOLERANCE = 2e-4
"""Relative: models are float64, but adapters train and start in float32."""
SMALLEST = 1e-5
"""Differences below this are rounding, where a number is the small difference of two others."""
ANY_BASIS = ("lora-null", "lora-null-v2")
"""They start from directions inside the null space of a few knowledge rows; all its bases are as good, and which one
LAPACK gives depends on the processor. What follows from the basis is not compared."""
FROM_THE_BASIS = tuple(
    f"/methods/{name}/{what}" for name in ANY_BASIS for what in ("losses", "scores", "compared", "exported")
)
SETTINGS = {"model.dtype": "float64", "eval.knowledge_rows": 4, "init.r_max": 4}
MEASURES = ("K_p", "T_l", "KT_l")


def flat(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a tree by their paths."""
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from flat(value, f"{place}/{key}")
    else:
        yield place, node


def differing(found: Any, golden: Any, besides: tuple[str, ...] = ()) -> list[str]:
    """The leaves that are not the same, each with both values, but where places begin with one of `besides`."""
    mine, its = dict(flat(found)), dict(flat(golden))
    return [
        f"{place}: {mine.get(place)}, was {its.get(place)}"
        for place in sorted(mine.keys() | its.keys())
        if not place.startswith(besides) and not same(mine.get(place), its.get(place))
    ]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float | int):
        return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=SMALLEST)
    return one == other


@pytest.fixture(scope="module")
def check():
    """Compare with the numbers of this name, or record them."""

    def compare(name: str, found: Any, besides: tuple[str, ...] = ()) -> None:
        golden = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}
        if os.environ.get("FARSS_RECORD"):
            text = json.dumps({**golden, name: found}, indent=1, sort_keys=True)
            GOLDEN.write_text(text + "\n", encoding="utf-8")
        else:
            assert not differing(json.loads(json.dumps(found)), golden[name], besides)

    return compare


def sizes(tensors: Path) -> float:
    """The norm of all tensors of a file together: it does not depend on signs or on names."""
    return math.sqrt(sum(value.double().square().sum().item() for value in load_file(tensors).values()))


def planned(plan: Path) -> dict[str, Any]:
    """Ranks, directions and importances of a plan, by module."""
    rows = json.loads(plan.read_text(encoding="utf-8"))["targets"]
    return {row["name"]: [row["rank"], row["indices"] and sum(row["indices"]), row["importance"]] for row in rows}


def measured(run: dict[str, Any]) -> dict[str, Any]:
    """What a report says about one job, without what the machine decides."""
    return {
        "parameters": run["trainable_params"],
        "losses": [loss for _, loss in run["curve"]],
        "scores": values(run["scores"]),
        "compared": {name: run["compared"][name] for name in MEASURES},
    }


def values(scores: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The scores by name, without their errors."""
    return {name: score["value"] for name, score in scores.items()}


def test_a_run_of_every_method(workshop, tmp_path, check):
    run = tmp_path / "run"
    recipe = workshop.recipe("golden", **SETTINGS, methods=sorted(METHODS))
    assert main(["run", recipe, "--out", str(run)]) == 0
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    found = {}
    for job in report["runs"]:
        name, adapter = job["method"], run / job["id"] / "train" / "peft" / WEIGHTS_FILE
        found[name] = measured(job) | {"exported": sizes(adapter) if adapter.exists() else None}
        if (plan := run / "plans" / f"{name}.json").exists():
            found[name]["plan"] = planned(plan)
    assert set(found) == set(METHODS)
    check("run", {"methods": found, "base": values(report["base"]["scores"])}, FROM_THE_BASIS)


@pytest.mark.parametrize("engine", ["resident", "streamed", "shards"])
def test_an_initialisation(workshop, tmp_path, check, engine):
    recipe, init = workshop.recipe("golden-init", **SETTINGS), tmp_path / "init"
    if engine == "shards":
        parts = [tmp_path / f"part-{i}" for i in (1, 2)]
        for i, part in enumerate(parts, 1):
            assert main(["init", "--recipe", recipe, "--shard", f"{i}/2", "--out", str(part)]) == 0
        merged = str(tmp_path / "merged.safetensors")
        assert main(["merge-stats", *map(str, parts), "--out", merged]) == 0
        assert main(["init", "--recipe", recipe, "--stats", merged, "--out", str(init)]) == 0
        shutil.copy(merged, init / "stats.safetensors")
    else:
        assert main(["init", "--recipe", recipe, "--engine", engine, "--out", str(init)]) == 0
    check("init", planned(init / "plan.json"))
    if engine != "streamed":  # which keeps no statistics of the whole model
        check("statistics", sizes(init / "stats.safetensors"))


def test_an_audit(workshop, tmp_path, check):
    recipe, out = workshop.recipe("golden-audit", **SETTINGS), tmp_path / "audit"
    assert main(["audit", "--recipe", recipe, "--finetuned", str(workshop.other), "--out", str(out)]) == 0
    report = json.loads((out / "audit.json").read_text(encoding="utf-8"))
    scores = {when: values(found) for when, found in report["scores"].items()}
    check("audit", {"scores": scores, "K_p": report["compared"]["K_p"], "facts": report["facts"]["lost_count"]})


def test_glue(tmp_path, tiny_tokenizer, check, monkeypatch):
    from tests.cli.conftest import write_rows

    monkeypatch.setenv("FARSS_CACHE", str(tmp_path / "cache"))
    save_encoder(tmp_path / "model", tiny_tokenizer)
    for split, rows in (("train", 96), ("validation", 40)):
        write_rows(tmp_path / "data" / "glue" / "sst2" / f"{split}.jsonl.gz", reviews(rows, rows))
    assert main(arguments(tmp_path, "run")) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))["tasks"]["sst2"]
    found = {
        entry["method"]: {
            "accuracy": entry["scores"]["validation"]["accuracy"]["value"],
            "warmup": entry["runs"][0]["warmup_loss"],
        }
        for entry in results["methods"]
    }
    check("glue", found)
