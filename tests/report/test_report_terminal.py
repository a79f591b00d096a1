"""The terminal table and the schema."""

from __future__ import annotations

import argparse
import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from farss.cli.output import print_run
from farss.errors import FarssError
from farss.report import print_report, table, validate, write_report


def printed(report, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_report(report, console)
    return console.file.getvalue()


def test_table_fits_100_columns_and_cuts_nothing(report):
    text = printed(report)
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    assert "0.90 [.88 .92]" in text


def test_table_has_a_row_per_run_best_first(report):
    rows = table(report)
    assert rows.row_count == len(report["runs"])
    lines = [line for line in printed(report).splitlines() if "M" in line[-2:] or line.endswith("M")]
    assert lines[0].startswith("FARSS")


def test_base_line_and_headline_are_printed(report):
    text = " ".join(printed(report).split())
    assert "base SmolLM2-135M: facts accuracy 0.410" in text
    assert "FARSS keeps 90 % [88, 92]" in text


def test_missing_measures_are_dashes(report):
    for run in report["runs"][1:]:
        run["compared"] = None
        run["trainable_params"] = None
    assert "–" in printed(report)


def test_square_brackets_in_names_are_not_markup(report):
    report["runs"][0]["look"]["label"] = "[bold]odd[/bold]"
    assert "[bold]odd[/bold]" in " ".join(printed(report, 140).split())


def test_synthetic_report_is_valid(report):
    validate(report)


@pytest.mark.parametrize(
    ("break_it", "place"),
    [
        (lambda r: r["runs"][1]["compared"].update(K_p={"low": 0.1}), "runs[1].compared.K_p"),
        (lambda r: r["runs"][0].update(learning_rate="fast"), "runs[0].learning_rate"),
        (lambda r: r["runs"][0].pop("method"), "runs[0]"),
        (lambda r: r.update(schema_version=2), "schema_version"),
        (lambda r: r["spectra"][0]["chosen"].update(farss=[-1]), "spectra[0].chosen.farss[0]"),
        (lambda r: r["runs"][0].update(id=r["runs"][1]["id"]), "runs[1].id"),
        (lambda r: r["comparisons"][3].update(a="nobody"), "comparisons[3].a"),
    ],
)
def test_mistakes_are_named_by_their_place(report, break_it, place):
    break_it(report)
    with pytest.raises(FarssError) as caught:
        validate(report)
    assert f"where: {place}\n" in f"{caught.value}\n"


def test_a_report_that_is_no_object_is_refused():
    with pytest.raises(FarssError):
        validate([])


def test_malformed_report_leaves_the_json_but_no_page(report, tmp_path):
    report["runs"][0]["method"] = None
    with pytest.raises(FarssError):
        write_report(report, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_a_budget_is_told_with_what_each_method_has(report):
    assert "trainable parameters:" not in printed(report, 400)
    for run in report["runs"][2:]:
        run["budget"] = {"requested": 20_000_000, "realised": 19_400_000}
    text = printed(report, 400)
    assert "budget 20,000,000 trainable parameters: LoRA 19,400,000 (−3.0 %)" in text


def figures(text: str) -> set[str]:
    return set(re.findall(r"\d+(?:\.\d+)?[kMB]?\b", text))


@pytest.mark.case("figures at eighty columns")
@pytest.mark.parametrize("width", [120, 100, 80, 72, 60, 48])
def test_no_figure_is_cut_at_any_width(report, build_differences, width):
    report["differences"] = build_differences(report["runs"])
    report["runs"][0]["trainable_params"], report["runs"][1]["trainable_params"] = 23_400, 711_000
    report["runs"][2]["compared"]["T_l"] = {"value": -12.345, "low": -13.25, "high": -11.5}
    whole, found = printed(report, 200), printed(report, width)
    assert max(map(len, found.splitlines())) <= width
    rows = [line for line in found.splitlines() if " [" in line]
    assert figures(" ".join(rows)) <= figures(whole)
    shown = "params" in found.split("too narrow for")[0]
    assert ("23.4k" in found and "711k" in found) or not shown
    assert shown or re.search(r"too narrow for [^:]*params", " ".join(found.split()))


def test_columns_nobody_measured_take_no_room(report):
    for run in report["runs"]:
        run["compared"] |= {"T": None, "KT": None}
    heads = next(line for line in printed(report).splitlines() if line.startswith("method")).split()
    assert "T" not in heads and "KT" not in heads and "K" in heads


def test_a_pipe_gets_whole_lines(report, capsys):
    arguments = argparse.Namespace(json=False)
    assert print_run(arguments, report, Path("somewhere")) == 0
    text = capsys.readouterr().out
    assert "too narrow" not in text and "prob. kept" in text and "task share" in text
    assert all(f"{run['compared']['K_p']['value']:.2f}" in text for run in report["runs"])
