"""The page: well formed, self-contained, safe, and saying nothing that the report does not hold."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser

import pytest

from farss.report import render, write_report
from farss.report.findings import headline, plain, standing
from farss.report.runs import catalogue

VOID = {"meta", "link", "br", "img", "hr", "input", "col"}
HOSTILE = '<script>alert("x")</script>\'"&<img src=x onerror=alert(1)>'


class Page(HTMLParser):
    """Collects what the tests ask about, and fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[tuple[str, str]] = []
        self.values: dict[str, list[float]] = {"h1": [], "all": []}
        self.handlers: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [
            (k, v or "") for k, v in attributes.items() if k in ("href", "src", "action", "data", "xlink:href")
        ]
        self.handlers += [k for k in attributes if k.startswith("on")]
        if tag == "data":
            self.values["all"].append(float(attributes["value"]))
            if "h1" in self.open:
                self.values["h1"].append(float(attributes["value"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text.append(data)


def numbers_of(node) -> set[float]:
    if isinstance(node, dict):
        return set().union(*map(numbers_of, node.values())) if node else set()
    if isinstance(node, list):
        return set().union(*map(numbers_of, node)) if node else set()
    return {float(node)} if isinstance(node, (int, float)) and not isinstance(node, bool) else set()


def replace_strings(node, keep=("id", "method", "a", "b", "measure", "region", "look")):
    if isinstance(node, dict):
        return {k: v if k in keep else replace_strings(v, keep) for k, v in node.items()}
    if isinstance(node, list):
        return [replace_strings(v, keep) for v in node]
    return HOSTILE if isinstance(node, str) else node


def test_page_is_well_formed_and_ids_are_unique(report):
    page = Page(render(report))
    assert len(page.ids) == len(set(page.ids))
    anchors = {v[1:] for k, v in page.links if v.startswith("#")}
    assert anchors <= set(page.ids)


def test_nothing_is_fetched(report):
    text = render(report)
    page = Page(text)
    assert all(value.startswith("#") for _, value in page.links)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg\")", text)
    assert not re.search(r"@import|url\(|<link|<iframe|<object", text)


def test_hostile_text_stays_text(report):
    clean, page = Page(render(report)), Page(render(replace_strings(report)))
    assert page.tags.count("script") == clean.tags.count("script") == 1
    assert "img" not in page.tags
    assert page.handlers == []
    assert HOSTILE in "".join(page.text)


def test_hostile_keys_and_labels_stay_text(report):
    run = report["runs"][2]
    run["method"], run["look"] = HOSTILE, {"label": "<img src=x>", "colour": "#123456", "mark": "bar"}
    run["compared"]["ratios"] = {HOSTILE: {"value": 0.5, "low": 0.4, "high": 0.6}}
    run["compared"]["undefined"] = {HOSTILE: HOSTILE}
    run["scores"][f"knowledge/{HOSTILE}/accuracy"] = {"value": 0.5, "stderr": 0.1, "n": 10}
    report["versions"] = {HOSTILE: HOSTILE}
    page = Page(render(report))
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert page.handlers == []


def test_every_marked_number_is_in_the_report(report):
    page, known = Page(render(report)), numbers_of(report)
    assert len(page.values["h1"]) == 6
    assert set(page.values["h1"]) <= known
    magnitudes = {abs(v) for v in known}  # a difference may be shown the other way round
    assert {v for v in page.values["all"] if abs(v) not in magnitudes} == set()


def test_a_page_that_compares_methods_keeps_to_the_report_too(report, build_differences):
    report["differences"] = build_differences(report["runs"])
    page, magnitudes = Page(render(report)), {abs(v) for v in numbers_of(report)}
    assert "differs" in page.ids and len(page.ids) == len(set(page.ids))
    assert {v for v in page.values["all"] if abs(v) not in magnitudes} == set()
    hostile = Page(
        render(replace_strings(report, keep=("id", "method", "a", "b", "measure", "region", "runs", "look")))
    )
    assert hostile.tags.count("script") == 1 and "img" not in hostile.tags and hostile.handlers == []


def test_headline_numbers_are_the_leaders(report):
    compared = next(r for r in report["runs"] if r["id"] == "farss-0.001")["compared"]
    expected = {compared[m][end] for m in ("K_p", "T_l") for end in ("value", "low", "high")}
    assert set(Page(render(report)).values["h1"]) == expected


def test_every_run_and_section_is_there(report):
    page = Page(render(report))
    text = " ".join(page.text)
    sections = ("summary", "plane", "pairs", "facts", "training", "ranks", "spectra", "costs", "settings", "reading")
    assert set(sections) <= set(page.ids)
    for run in catalogue(report):
        assert run.name in text


def test_svg_figures_have_title_and_description(report):
    figures = re.findall(r'<svg xmlns="[^"]*" class="figure.*?</svg>', render(report), flags=re.S)
    assert len(figures) > 10
    assert all("<title>" in f and "<desc>" in f and 'role="img"' in f for f in figures)


@pytest.mark.parametrize(
    "part", ["recipe", "versions", "device", "model", "data", "base", "comparisons", "spectra", "created"]
)
@pytest.mark.parametrize("way", ["missing", "null"])
def test_optional_parts_of_the_report(build_report, part, way):
    report = build_report(methods=("full", "farss"), rates=(2e-4,))
    if way == "missing":
        del report[part]
    else:
        report[part] = None
    Page(render(report))


@pytest.mark.parametrize(
    "part",
    ["scores", "compared", "curve", "frontier", "frontier_area", "plan", "facts", "learning_rate", "seed", "label"],
)
@pytest.mark.parametrize("way", ["missing", "null"])
def test_optional_parts_of_every_run(build_report, part, way):
    report = build_report(methods=("full", "farss"), rates=(2e-4,))
    for run in report["runs"]:
        if way == "missing":
            run.pop(part)
        else:
            run[part] = None
    Page(render(report))


def test_no_runs(report):
    Page(render({"schema_version": 1, "name": "empty", "runs": []}))
    assert "Nothing was compared" in plain(headline({"runs": []}))


def test_a_single_method_claims_no_comparison(build_report):
    said = plain(headline(build_report(methods=("farss",), rates=(2e-4,))))
    assert "ahead" not in said and "separable" not in said


def test_no_full_run_means_no_share_of_its_gain(build_report):
    report = build_report(methods=("lora", "farss"))
    for run in report["runs"]:
        for key in ("T", "KT", "T_l", "KT_l"):
            run["compared"][key] = None
        run["frontier"] = [{**p, "T_l": None} for p in run["frontier"]]
    report["comparisons"] = [c for c in report["comparisons"] if c["measure"] == "K_p"]
    Page(render(report))
    said = plain(headline(report))
    assert "of full fine-tuning" not in said
    assert "task loss goes from 1.410 to" in said


def test_zero_accuracy_of_the_base_leaves_likelihood(report):
    for run in report["runs"]:
        run["compared"] |= {"K": None, "K_clipped": None, "KT": None, "ratios": {"facts": None}}
        run["compared"]["undefined"] = {"K": "a ratio to a score of zero is undefined"}
    text = render(report)
    Page(text)
    assert "a ratio to a score of zero is undefined" in text


def test_an_interval_of_the_difference_that_holds_zero_is_not_separable(build_report):
    report = build_report(methods=("full", "milora", "farss"), rates=(2e-4,))
    for row in report["comparisons"]:
        if {row["a"], row["b"]} == {"milora-0.0002", "farss-0.0002"}:
            row |= {"low": -0.2, "high": 0.2}
    said = plain(headline(report))
    assert "not separable from MiLoRA" in said
    assert "ahead of full fine-tuning" in said


def test_without_paired_differences_overlapping_intervals_decide(build_report):
    report = build_report(methods=("milora", "farss"), rates=(2e-4,))
    report["comparisons"] = []
    milora, farss = catalogue(report)
    assert standing(report, farss, milora, "KT_l") == "ahead"
    assert standing(report, milora, farss, "KT_l") == "behind"
    milora.record["compared"]["KT_l"]["high"] = 0.999
    assert standing(report, farss, milora, "KT_l") == "level"


def test_paired_difference_is_read_both_ways(build_report):
    report = build_report(methods=("milora", "farss"), rates=(2e-4,))
    flipped = copy.deepcopy(report)
    for row in flipped["comparisons"]:
        row |= {"a": row["b"], "b": row["a"], "value": -row["value"], "low": -row["high"], "high": -row["low"]}
    assert plain(headline(report)) == plain(headline(flipped))


def test_a_gain_that_may_be_zero_is_not_called_a_gain(build_report):
    report = build_report(methods=("full", "farss"), rates=(2e-4,))
    run = report["runs"][1]
    run["compared"]["T_l"] = {"value": 0.01, "low": -0.02, "high": 0.04}
    assert "no task gain that can be told from zero" in plain(headline(report))


def test_a_worsened_task_is_not_called_a_gain(build_report):
    report = build_report(methods=("full", "farss"), rates=(2e-4,))
    report["runs"][1]["compared"]["T_l"] = {"value": -0.3, "low": -0.4, "high": -0.2}
    assert "worse" in plain(headline(report))


def test_extreme_values_are_drawn_inside_the_figure(report):
    report["runs"][3]["compared"]["T_l"] = {"value": -40.0, "low": -60.0, "high": -20.0}
    report["runs"][3]["compared"]["K_p"] = {"value": 0.0, "low": 0.0, "high": 0.0}
    report["spectra"][0]["sigma"] = [0.0] * 5
    report["spectra"][0]["log_scores"] = [None] * 5
    report["runs"][4]["curve"] = [[1, 0.5]]
    text = render(report)
    Page(text)
    assert "outside the figure" in text


@pytest.mark.parametrize("layers", [1, 90])
def test_plans_of_any_depth(build_report, layers):
    report = build_report(methods=("farss",), rates=(2e-4,))
    targets = [
        {
            "name": f"h.{i}.{part}.c_proj",
            "layer": i,
            "kind": "c_proj",
            "region": None,
            "rank": i + j + 1,
            "importance": None,
        }
        for i in range(layers)
        for j, part in enumerate(("attn", "mlp"))
    ]
    report["runs"][0]["plan"] = {"targets": targets, "requested": 1, "realised": 1, "shallow_layers": 0}
    text = render(report)
    Page(text)
    assert "attn.c_proj" in text and "mlp.c_proj" in text


def test_writing_leaves_both_files(report, tmp_path):
    data, page = write_report(report, tmp_path / "run")
    assert json.loads(data.read_text(encoding="utf-8")) == report
    assert page.read_text(encoding="utf-8") == render(report)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["report.html", "report.json"]


def section(report, name: str) -> str:
    """The text of one section of the page."""
    found = re.search(rf'<section id="{name}".*?</section>', render(report), re.DOTALL)
    return " ".join(Page(found[0]).text) if found else ""


def test_a_budget_is_shown_with_what_it_was_missed_by(report):
    assert "asked for" not in section(report, "costs")
    for run, realised in zip(report["runs"][2:], (19_400_000, 20_020_000), strict=False):
        run["budget"] = {"requested": 20_000_000, "realised": realised}
    text = section(report, "costs")
    assert "asked for" in text and "missed by −3.0\u00a0%" in text and "missed by +0.1\u00a0%" in text
    assert set(Page(render(report)).values["all"]) >= {20_000_000.0}


def select_trials_(report) -> set[str]:
    """Make the second rate of every method the chosen one; the ids of the others."""
    report["data"]["validation_rows"] = 40
    for number, run in enumerate(report["runs"]):
        run["selected"], run["validation_loss"] = bool(number % 2), 1.5 - 0.25 * (number % 2)
    left = {run["id"] for run in report["runs"] if not run["selected"]}
    report["comparisons"] = [c for c in report["comparisons"] if not {c["a"], c["b"]} & left]
    return left


def test_trials_that_were_not_chosen_are_in_one_table_only(report):
    assert "All trials" not in " ".join(Page(render(report)).text)
    left = select_trials_(report)
    assert len(left) == len(report["runs"]) / 2
    for run in report["runs"]:
        if run["id"] in left:
            run["compared"]["K_p"] = {"value": 0.12345, "low": 0.1, "high": 0.2}
            run["trainable_params"] = 777
    page = render(report)
    assert page.count(">0.123<") == len(left) and ">777<" not in page
    text = section(report, "trials")
    assert text.count("● yes") == text.count("○ no") == len(left)
    assert "1.250" in text and "1.500" in text and "40 validation rows" in re.sub(r"\s+", " ", text)
    assert len(catalogue(report)) == len(left)


def test_the_headline_says_who_chose_the_learning_rates(report):
    select_trials_(report)
    assert "the loss on validation rows, which no score uses, chose 6 of 12 trials" in " ".join(
        Page(render(report)).text
    )
