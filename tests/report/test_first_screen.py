"""The first screen: the plane with every method, a sentence of two lines, the table."""

from __future__ import annotations

import html
import json
import re

import pytest

from farss.cli.main import main
from farss.errors import FarssError
from farss.methods import METHODS
from farss.report import render, validate, write_report
from farss.report.figures.names import Name, names
from farss.report.findings import LONGEST_HEADLINE, headline, plain
from farss.report.first_screen import first_screen
from farss.report.runs import catalogue, looks_of

FIVE = ("full", "lora", "pissa", "milora", "farss")
FIFTEEN = tuple(METHODS)[:15]


def first(page: str) -> str:
    return re.search(r'<section id="first".*?</section>', page, re.DOTALL)[0]  # type: ignore[index]


def words(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


@pytest.mark.case("the first screen answers the question")
@pytest.mark.parametrize("methods", [FIVE, FIFTEEN], ids=["5", "15"])
def test_plane_then_sentence_then_table(build_report, methods):
    page = render(build_report(methods=methods, rates=(5e-4,)))
    places = [page.index(part) for part in ('<svg xmlns="http://www.w3.org/2000/svg" class="figure', "<h1", "<table")]
    assert places == sorted(places) and page.index('<section id="first"') < page.index('<section id="summary"')
    text = words(first(page))
    for name in methods:
        assert f"{METHODS[name].look.label} · 5e-4" in text
        assert f"m{METHODS[name].look.colour[1:]}" in first(page)
    assert "0.0005" not in text and "lr" not in text.split()


@pytest.mark.case("the first screen answers the question")
@pytest.mark.parametrize("count", [1, 2, 3, 5, 9, 15, 21])
@pytest.mark.parametrize("told_apart", [True, False])
def test_the_sentence_never_needs_more_than_two_lines(build_report, count, told_apart):
    report = build_report(methods=tuple(METHODS)[:count], rates=(5e-4,))
    for row in report["comparisons"]:
        row |= {"low": 0.01, "high": 0.2} if told_apart else {"low": -0.2, "high": 0.2}
    for run in report["runs"]:
        run["look"]["label"] = f"{run['method'][:14]:w<24}"
    said = plain(headline(report))
    assert len(said) <= LONGEST_HEADLINE and "keeps" in said
    assert count == 1 or "ahead" in said or "separable" in said or "behind" in said


def labels(figure: str) -> list[tuple[float, float, str]]:
    found = re.findall(r'<text x="([-\d.]+)" y="([-\d.]+)" class="point-name m[^>]*>([^<]+)<', figure)
    return [(float(x), float(y), html.unescape(text)) for x, y, text in found]


@pytest.mark.parametrize("methods", [FIVE, FIFTEEN, tuple(METHODS)], ids=["5", "15", "21"])
def test_names_in_the_plane_overlap_nowhere(build_report, methods):
    report = build_report(methods=methods, rates=(5e-4,))
    for figure in re.findall(r"<svg xmlns.*?</svg>", first_screen(report, catalogue(report))["figure"], re.DOTALL):
        found = labels(figure)
        assert len(found) >= min(len(methods), 12)
        boxes = [(x, y - 11, x + 7.2 * len(text), y + 2) for x, y, text in found]
        for i, (left, top, right, bottom) in enumerate(boxes):
            for l2, t2, r2, b2 in boxes[i + 1 :]:
                assert min(right, r2) <= max(left, l2) + 4 or min(bottom, b2) <= max(top, t2) + 2


def test_a_name_that_has_no_room_is_left_out():
    crowd = [(10.0 + 3 * i, 20.0) for i in range(12)]
    found = names([Name(mark, "a long name", "x") for mark in crowd], crowd, (0, 0, 60, 40), [], [])
    assert found.count("<text") < 2


def test_a_run_that_diverged_is_ringed_at_the_edge_and_named(build_report):
    report = build_report(methods=FIFTEEN, rates=(5e-4,))
    lost = report["runs"][7]["compared"]
    lost["T_l"], lost["K_p"] = ({"value": v, "low": v - 0.1, "high": v + 0.1} for v in (-2.9, 0.01))
    text = words(first(render(report)))
    label = METHODS[FIFTEEN[7]].look.label
    assert f"Beyond the edge, ringed: {label} · 5e-4." in text and "outside the figure" in text


def test_without_full_fine_tuning_the_fall_of_the_loss_stands_for_the_gain(build_report):
    report = build_report(methods=("lora", "farss"), rates=(5e-4,))
    for run in report["runs"]:
        run["compared"] |= {"T": None, "KT": None, "T_l": None, "KT_l": None}
    assert "fall of the task’s loss" in words(first(render(report)))


def test_without_any_measure_of_the_task_the_sentence_stands_alone(build_report):
    report = build_report(methods=("lora",), rates=(5e-4,))
    report["runs"][0] |= {"scores": {}}
    report["runs"][0]["compared"] |= {"T": None, "KT": None, "T_l": None, "KT_l": None}
    assert "<svg" not in first(render(report)) and "LoRA keeps" in words(first(render(report)))


def test_seeds_at_several_rates_name_them_all(build_report, build_differences):
    report = build_report(methods=("full", "lora"), rates=(2e-4, 5e-4))
    for run in report["runs"]:
        run["seed"] = int(run["learning_rate"] == 5e-4)
    report["differences"] = build_differences(report["runs"])
    merged = report["differences"]["methods"].pop("lora lr 0.0005")
    report["differences"]["methods"]["lora lr 0.0002"]["runs"] += merged["runs"]
    report["differences"]["methods"]["lora lr 0.0002"] |= {"seeds": 2, "learning_rate": None}
    report["differences"]["measures"] = {}
    assert "LoRA · 2e-4, 5e-4" in words(first(render(report)))


def test_looks_are_the_reports_own_then_the_methods_then_made_from_the_name():
    one = {"id": "a", "method": "lora", "look": {"label": "My LoRA", "colour": "#204060", "mark": "bar"}}
    two, three = {"id": "b", "method": "farss"}, {"id": "c", "method": "of-a-package"}
    found = looks_of([one, two, three])
    assert [look.label for look in found.values()] == ["My LoRA", "FARSS", "of-a-package"]


def test_equal_looks_of_two_methods_are_told_apart():
    look = {"label": "Same", "colour": "#204060", "mark": "bar"}
    found = looks_of([{"id": m, "method": m, "look": look} for m in ("one", "two", "three")])
    assert len({(f.colour, f.mark) for f in found.values()}) == 3 == len({f.label for f in found.values()})


@pytest.mark.parametrize("wrong", [{"colour": "red;}"}, {"mark": "skull"}, {"label": "x" * 99}, {"label": ""}])
def test_a_malformed_look_is_named(report, wrong):
    report["runs"][1]["look"] |= wrong
    with pytest.raises(FarssError) as caught:
        validate(report)
    assert str(caught.value.where).startswith("runs[1].look")


def test_one_method_of_two_folders_keeps_both_names(build_report):
    report = build_report(methods=("full", "lora"), rates=(5e-4,))
    again = {**report["runs"][1], "id": report["runs"][1]["id"] + "@second"}
    report["runs"].append(again)
    assert [run.name for run in catalogue(report)] == ["full fine-tuning · 5e-4", "LoRA · 5e-4", "LoRA @second · 5e-4"]


def test_a_report_is_shown_again_from_its_json_alone(report, tmp_path):
    write_report(report, tmp_path / "first")
    assert main(["compare", str(tmp_path / "first" / "report.json"), "--out", str(tmp_path / "again"), "--json"]) == 0
    first, again = ((tmp_path / name / "report.html").read_text() for name in ("first", "again"))
    assert first == again


def test_a_report_of_another_version_is_refused_with_what_to_do(report, tmp_path, capsys):
    report["schema_version"] = 99
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert main(["compare", str(tmp_path / "report.json"), "--out", str(tmp_path / "again")]) == 1
    assert "another version of farss" in (said := capsys.readouterr().err) and "run its recipe again" in said
    assert not (tmp_path / "again" / "report.html").exists()
