"""What differs: the corrected comparison of methods on the page, on the terminal and in the headline."""

from __future__ import annotations

import copy
import html
import io
import re

import pytest
from rich.console import Console

from farss.errors import FarssError
from farss.report import print_report, render, validate
from farss.report.difference_table import difference_section
from farss.report.findings import headline, plain, standfirst, standing
from farss.report.runs import catalogue

HOSTILE = "<script>alert(1)</script>&"


@pytest.fixture
def seeded(build_report, build_differences):
    """Four methods, two seeds each but for PiSSA."""
    report = build_report(methods=("full", "lora", "pissa", "farss"), rates=(2e-4,))
    again = copy.deepcopy([run for run in report["runs"] if run["method"] != "pissa"])
    for run in again:
        run["id"], run["seed"] = f"{run['id']}-seed1", 1
        run["compared"]["K_p"]["value"] -= 0.004
    report["runs"] += again
    report["comparisons"] = []
    report["differences"] = build_differences(report["runs"])
    return report


def section(report) -> str:
    found = re.search(r'<section id="differs".*?</section>', render(report), re.DOTALL)
    return words(found[0]) if found else ""


def words(page: str) -> str:
    """The text of a piece of a page."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


def pair(report, a: str, b: str, measure: str = "KT_l") -> dict:
    return next(p for p in report["differences"]["measures"][measure]["pairs"] if {p["a"], p["b"]} == {a, b})


def test_the_report_is_valid(seeded):
    validate(seeded)


def test_the_best_method_stands_against_each_other_and_every_pair_is_there(seeded):
    text = section(seeded)
    assert text.count("FARSS · 2e-4 against each other method") == 4
    assert text.count("the other 3 pairs") == 4
    for a, b in (("FARSS", "LoRA"), ("FARSS", "PiSSA"), ("FARSS", "full fine-tuning"), ("LoRA", "PiSSA")):
        assert f"{a} · 2e-4 − {b} · 2e-4" in text
    assert "< 0.001" in text and "2500" in text


def test_methods_with_one_seed_are_named(seeded):
    assert "in none of their intervals: PiSSA · 2e-4." in section(seeded)
    for method in seeded["differences"]["methods"].values():
        method["seeds"] = 2
    assert "in none of their intervals" not in section(seeded)


def test_reports_without_it_have_no_such_section(report):
    assert section(report) == "" and "#differs" not in render(report)


def test_a_measure_that_was_not_compared_says_why(seeded):
    del seeded["differences"]["measures"]["frontier_area"]
    seeded["differences"]["undefined"] = {"frontier_area": HOSTILE}
    assert HOSTILE in section(seeded) and "frontier area not compared" in section(seeded)


def test_the_verdict_is_the_corrected_one(seeded):
    farss, lora = (next(r for r in catalogue(seeded) if r.method == m) for m in ("farss", "lora"))
    assert standing(seeded, farss, lora, "KT_l") == "ahead" and standing(seeded, lora, farss, "KT_l") == "behind"
    seeded["comparisons"] = [{"a": farss.id, "b": lora.id, "measure": "KT_l", "value": 0.1, "low": 0.09, "high": 0.11}]
    pair(seeded, "farss", "lora").update(low=-0.3, high=0.3)
    assert standing(seeded, farss, lora, "KT_l") == "level"
    assert "not separable from LoRA" in plain(headline(seeded))
    del seeded["differences"]
    assert standing(seeded, farss, lora, "KT_l") == "ahead"


def test_the_headline_speaks_of_all_seeds(seeded):
    own = seeded["differences"]["methods"]["farss"]
    own["K_p"] = {"value": 0.777, "low": 0.7, "high": 0.85}
    assert "FARSS keeps 78" in plain(headline(seeded))
    own["seeds"] = 1
    assert "FARSS keeps 78" not in plain(headline(seeded))


def test_the_areas_are_said_to_differ_or_not(seeded):
    said = " ".join(plain(s) for s in standfirst(seeded))
    assert "corrected for all 6 pairs of methods" in said and "is not in it for PiSSA · 2e-4." in said
    top = sorted(seeded["differences"]["methods"].items(), key=lambda m: -m[1]["frontier_area"]["value"])[:2]
    pair(seeded, top[0][0], top[1][0], "frontier_area").update(low=-1.0, high=1.0)
    said = " ".join(plain(s) for s in standfirst(seeded))
    assert "the largest frontier areas are those of" in said and "which cannot be told apart" in said


def test_the_terminal_shows_it_in_100_columns(seeded):
    console = Console(file=io.StringIO(), width=100)
    print_report(seeded, console)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 100 and "…" not in text
    said = " ".join(text.split())
    assert "FARSS · 2e-4 minus" in said and "difference in KT_l" in said and "2 / 1" in said
    assert re.search(r"pairs that differ: KT_l \d of 6 · frontier area \d of 6", said)


def test_learning_rates_apart_are_methods_apart(build_report, build_differences):
    report = build_report(methods=("full", "lora"), rates=(2e-4, 1e-3))
    report["differences"] = build_differences(report["runs"])
    assert "LoRA · 2e-4" in section(report) and "LoRA · 1e-3" in section(report)


@pytest.mark.parametrize(
    ("break_it", "place"),
    [
        (lambda d: d["methods"]["lora"].update(runs=["nobody"]), "differences.methods.lora.runs"),
        (lambda d: d["measures"]["K_p"]["pairs"][0].update(a="nobody"), "differences.measures.K_p.pairs[0].a"),
        (lambda d: d["measures"]["K_p"]["pairs"][1].pop("p_holm"), "differences.measures.K_p.pairs[1]"),
    ],
)
def test_a_malformed_comparison_is_named(seeded, break_it, place):
    break_it(seeded["differences"])
    with pytest.raises(FarssError) as caught:
        validate(seeded)
    assert str(caught.value.where).startswith(place)


def test_speed_beside_lora_is_shown_where_it_is_known(seeded):
    assert "×" not in words(render(seeded))
    seeded["runs"][1]["train_speed_to_lora"] = 0.925
    text = words(render(seeded))
    assert "× 0.93" in text or "× 0.92" in text
    assert "same machine with no other job" in text


def test_an_area_carries_its_interval(seeded):
    seeded["runs"][1]["frontier_area"] = {"value": 0.7654, "low": 0.7123, "high": 0.8123}
    page = render(seeded)
    assert "0.765" in page and "0.712" in page and "0.812" in page
    validate(seeded)


def test_the_best_method_stands_first_whatever_the_order_of_the_report(seeded):
    top = {"value": 2.0, "low": 1.9, "high": 2.1}
    for record in seeded["differences"]["methods"].values():
        record["KT_l"] = {"value": 0.5, "low": 0.4, "high": 0.6}
    first = next(name for name in seeded["differences"]["methods"] if name != "full")
    seeded["differences"]["methods"][first]["KT_l"] = top
    last = list(seeded["differences"]["methods"])[-1]
    found = pair(seeded, first, last)
    assert found["a"] == first  # the best one is the first of this pair
    found.update(value=0.5, low=0.4, high=0.6)
    label = next(r.name.partition(" · seed")[0] for r in catalogue(seeded) if r.method == first)
    group = difference_section(seeded, catalogue(seeded))["groups"][0]
    assert group["best"] == label and all(
        label in words(row["a"]) and label not in words(row["b"]) for row in group["first"]
    )
    console = Console(file=io.StringIO(), width=100)
    print_report(seeded, console)
    said = " ".join(console.file.getvalue().split())
    assert f"{label} minus" in said and "+0.500 [+0.400 +0.600]" in said
