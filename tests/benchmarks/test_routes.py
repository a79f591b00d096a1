"""The benchmark of routes: what it prints is measured against the exact decomposition, wherever the weight is."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

_SPEC = importlib.util.spec_from_file_location("elsewhere", Path(__file__).parents[1] / "elsewhere.py")
elsewhere = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(elsewhere)


def test_every_route_is_compared_with_the_exact_one_wherever_the_weight_is(benchmark_module, monkeypatch):
    routes = benchmark_module("routes")
    with elsewhere.pretending(monkeypatch):
        weight = routes.sample_weight(40, 24, routes.DTYPES["float32"], "cpu").to(elsewhere.ELSEWHERE)
        rows = routes.rows_of(weight, 1)
    assert [row["asked"] for row in rows] == ["gram", "polar", "gesdd"]
    for row in rows:
        assert row["sigma_relative_error"] < 1e-4 and row["lowest_distance"] < 1e-2 and row["highest_distance"] < 1e-2


def test_the_table_is_printed_and_kept(benchmark_module, monkeypatch, tmp_path, capsys):
    routes, out = benchmark_module("routes"), tmp_path / "routes.json"
    asked = ["--device", "cpu", "--shapes", "24x16", "--dtypes", "float32", "bfloat16", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["routes.py", *asked, "--out", str(out)])
    routes.main()
    found = json.loads(out.read_text())
    assert len(found["rows"]) == 6 and {row["dtype"] for row in found["rows"]} == {"float32", "bfloat16"}
    chosen = {row["route"] for row in found["chosen"]}
    printed = capsys.readouterr().out
    assert printed.count("24x16") == 6 and all(f"`auto` chooses {route}" in printed for route in chosen)
