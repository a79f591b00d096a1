"""The page and the table of an inspection: well formed, self-contained, safe, and of no number but the report's."""

from __future__ import annotations

import io
import json
import math
import random
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from rich.console import Console

from farss.report.inspection import print_inspection, render, write_inspection

KINDS = {"q_proj": (32, 32), "k_proj": (16, 32), "down_proj": (32, 48)}
HOSTILE = '<script>alert("x")</script>\'"&<img src=x onerror=alert(1)>'
VOID = {"meta", "br", "col", "link", "img"}


def make_target(layer: int, kind: str, shallow: int, rng: random.Random) -> dict[str, Any]:
    k = min(KINDS[kind])
    rank, held, overlap = rng.randint(2, 9), rng.randint(1, k), rng.uniform(0.5, 1)
    return {
        "name": f"model.layers.{layer}.self_attn.{kind}",
        "layer": layer,
        "kind": kind,
        "shape": list(KINDS[kind]),
        "region": "shallow" if layer < shallow else "deep",
        "rank": rank,
        "importance": 10 ** rng.uniform(-9, -3),
        "energy_weight": rng.uniform(0.2, 0.6),
        "energy_input": None if kind == "down_proj" else rng.uniform(0.2, 0.9),
        "directions": k,
        "directions_held": held,
        "held_share": held / k,
        "log_score_quantiles": [-30.0, -20.0, -15.0, -11.0, -5.0],
        "selected": list(range(rank)),
        "stability": {
            "ranks": [rank, rank],
            "jaccard": overlap / 2,
            "overlap": overlap,
            "chance": rank / k,
            "above_chance": overlap - 0.1,
        },
    }


def make_layer(layer: int, rows: list[dict[str, Any]]) -> dict[str, Any]:
    mine = [row for row in rows if row["layer"] == layer]
    first = mine[0]
    return {
        "layer": layer,
        "region": first["region"],
        "modules": len(mine),
        "importance": sum(row["importance"] for row in mine),
        "log_importance": math.log(first["importance"]),
        "energy_weights": first["energy_weight"],
        "energy_inputs": first["energy_input"],
        "held_share": first["held_share"],
        **{key: first["stability"][key] for key in ("overlap", "chance", "above_chance")},
    }


def make_report(layers: int = 6, shallow: int = 2) -> dict[str, Any]:
    """Invented numbers of a realistic shape; nothing here was measured."""
    rng = random.Random(0)
    rows = [make_target(layer, kind, shallow, rng) for layer in range(layers) for kind in KINDS]
    memory = {part: rng.randint(10**6, 10**9) for part in ("weights", "moments", "activations", "decomposition")}
    memory |= {"states": 0, "peak": 3_456_789_012}
    times = {"statistics": 12.5, "decomposition": 71.25, "scoring": 3.75, "total": 87.5}
    return {
        "schema_version": 1,
        "created": "2026-01-02T03:04:05+00:00",
        "model": {"name": "tiny", "fingerprint": "f" * 64, "parameters": 1234567, "layers": layers, "dtype": "float32"},
        "data": {
            "task": "sums",
            "rows": 9,
            "tokens": 321,
            "supervised_tokens": 99,
            "seed": 0,
            "sha256": "a" * 64,
            "halves": [{"tokens": tokens, "supervised": 49, "rows": 4} for tokens in (161, 160)],
        },
        "method": "farss",
        "modules": len(rows),
        "score_share": 0.9,
        "boundary": {
            "planned": shallow,
            "default": 1,
            "suggested": 3,
            "split": 3,
            "gain": 0.61,
            "default_gain": 0.33,
            "factor": 7.5,
        },
        "stability": {
            "overlap": 0.83,
            "jaccard": 0.71,
            "chance": 0.25,
            "above_chance": 0.77,
            "least": {"name": rows[0]["name"], "above_chance": 0.12},
            "low": 0.93,
            "high": 0.91,
            "ranks": 0.064,
            "steady": True,
            "tokens": [161, 160],
            "largest_k": 32,
        },
        "warnings": ["The selection is not stable."],
        "layers": [make_layer(layer, rows) for layer in range(layers)],
        "targets": rows,
        "spectra": [
            {
                "name": rows[0]["name"],
                "region": "shallow",
                "sigma": [2.0 / (i + 1) for i in range(32)],
                "log_scores": [-5.0 - i for i in range(31)] + [None],
                "chosen": {"farss": [20, 21, 30]},
            }
        ],
        "costs": [
            {"rank": rank, "trainable_params": 10_007 * size, "share": size / 123, "adapter_bytes": 40_028 * size,
             "exported_bytes": 80_056 * size}
            for rank, size in ((None, 3), (8, 1), (16, 2))
        ],
        "predicted": {
            "tokens": 321,
            "engine": "resident",
            "device": "cpu",
            "peak_bytes": memory["peak"],
            "memory": {"inspect": memory, "resident": {**memory, "peak": 2_345_678_901}, "streamed": None},
            "seconds": times,
        },
        "measured": {
            "peak_bytes": 3_210_987_654,
            "seconds": {**times, "total": 99.0},
            "decomposed": 4,
            "restored": 2,
            "restored_rows": 24,
        },
        "recipe": {"name": "run"},
        "versions": {"python": "3.11"},
        "device": {"name": "a machine", "cores": 2, "memory_bytes": 8_589_934_592},
    }  # fmt: skip


@pytest.fixture
def report() -> dict[str, Any]:
    return make_report()


class Page(HTMLParser):
    """Collects what the tests ask about, and fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.values: list[float] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(key, value or "") for key, value in attrs]
        if tag == "data":
            self.values.append(float(dict(attrs)["value"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text.append(data)

    def all_of(self, key: str) -> list[str]:
        return [value for name, value in self.attributes if name == key]


def numbers_of(node: Any) -> set[float]:
    if isinstance(node, (dict, list)):
        return set().union(*map(numbers_of, node.values() if isinstance(node, dict) else node))
    return {float(node)} if isinstance(node, (int, float)) and not isinstance(node, bool) else set()


def with_hostile_strings(node: Any, kept: tuple[str, ...] = ("region", "method")) -> Any:
    if isinstance(node, dict):
        return {key: value if key in kept else with_hostile_strings(value) for key, value in node.items()}
    if isinstance(node, list):
        return [with_hostile_strings(value) for value in node]
    return HOSTILE if isinstance(node, str) else node


def test_the_page_is_well_formed_and_complete(report):
    page = Page(render(report))
    ids = page.all_of("id")
    assert len(ids) == len(set(ids))
    assert {"importance", "energy", "scores", "stability", "layers", "costs", "settings", "reading"} <= set(ids)
    assert {href[1:] for href in page.all_of("href")} <= set(ids)
    figures = re.findall(r'<svg xmlns="[^"]*" class="figure.*?</svg>', render(report), flags=re.S)
    assert len(figures) == 2 + 2 + 2 + 2 + len(KINDS)  # heat map, two lines, one spectrum: each wide and narrow; bars
    assert all("<title>" in figure and "<desc>" in figure for figure in figures)


def test_nothing_is_fetched(report):
    text = render(report)
    page = Page(text)
    assert all(href.startswith("#") for href in page.all_of("href")) and not page.all_of("src")
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg\")", text)
    assert not re.search(r"@import|url\(|<link|<iframe|<object", text)


def test_every_marked_number_is_in_the_report(report):
    page = Page(render(report))
    assert len(page.values) > 100
    assert set(page.values) - numbers_of(report) == set()
    shown = set(page.values)
    assert {report["boundary"]["gain"], report["stability"]["overlap"], report["measured"]["peak_bytes"]} <= shown
    assert {row["importance"] for row in report["layers"]} <= shown
    assert {row["adapter_bytes"] for row in report["costs"]} <= shown


def test_hostile_text_stays_text(report):
    page = Page(render(with_hostile_strings(report)))
    assert page.tags.count("script") == 1 and "img" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert HOSTILE in "".join(page.text)


def test_every_warning_is_shown(report):
    assert "The selection is not stable." in "".join(Page(render(report)).text)
    report["warnings"] = []
    assert "warning" not in Page(render(report)).all_of("class")


def test_what_the_importances_suggest(report):
    assert "importance suggests 3" in "".join(Page(render(report)).text)
    report["boundary"] |= {"suggested": 1, "factor": 0.5}
    text = "".join(Page(render(report)).text)
    assert "no other boundary" in text and "the less important ones" in text
    report["boundary"] |= {"split": None, "gain": None, "default_gain": None, "factor": None}
    assert "cannot be cut in two" in "".join(Page(render(report)).text)


@pytest.mark.parametrize("layers", [1, 90])
def test_models_of_any_depth(layers):
    Page(render(make_report(layers, min(1, layers - 1))))


def test_what_was_not_seen_is_left_out(report):
    for row in report["targets"]:
        row |= {"importance": 0.0, "energy_input": None}
    for row in report["layers"]:
        row |= {"energy_inputs": None, "above_chance": None, "importance": 0.0}
    report["stability"] |= {"least": None, "above_chance": None}
    text = "".join(Page(render(report)).text)
    assert "No module has an importance above zero" in text and "hidden states from" not in text
    assert "take all their directions" in text


def test_the_terminal_says_the_same(report):
    console = Console(width=80, record=True, file=io.StringIO())
    print_inspection(report, console)
    text = console.export_text()
    assert max(len(line) for line in text.splitlines()) <= 80 and "…" not in text
    for expected in ("importance", "0 shallow", "5 deep", "83 %", "the plan", "warning:", "first 3 layers apart"):
        assert expected in text


def test_many_layers_are_thinned_on_the_terminal():
    console = Console(width=80, record=True, file=io.StringIO())
    print_inspection(make_report(90, 2), console)
    text = console.export_text()
    assert "0 shallow" in text and "89 deep" in text and "16 of 90 layers" in text and "\n50 deep" not in text


def test_writing_leaves_both_files(report, tmp_path):
    data, page = write_inspection(report, tmp_path / "look")
    assert json.loads(data.read_text(encoding="utf-8")) == report
    assert page.read_text(encoding="utf-8") == render(report)
