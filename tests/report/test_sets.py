"""Sets given as files are called by the file's name, on pages and terminals."""

from __future__ import annotations

import copy
import html
import re

import pytest

from farss.report import render
from farss.report.sets import score_key, set_labels
from farss.report.terminal import base_line


@pytest.mark.case("sets given as files")
@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["data/sets/sums.jsonl"], ["sums.jsonl"]),
        (["facts", "/srv/a/sums.jsonl", "/srv/b/sums.jsonl"], ["facts", "a/sums.jsonl", "b/sums.jsonl"]),
        (["a/x/q.csv", "b/x/q.csv", "c/r.csv"], ["a/x/q.csv", "b/x/q.csv", "r.csv"]),
        (["owner/name", "trivia_qa"], ["owner/name", "trivia_qa"]),
        (["sums.jsonl", "deep/sums.jsonl"], ["sums.jsonl", "deep/sums.jsonl"]),
    ],
)
def test_a_file_is_called_by_its_name_and_equal_names_by_their_folders(names, labels):
    assert list(set_labels(names).values()) == labels


def test_a_path_inside_a_score_s_key_is_the_set():
    assert score_key("knowledge/data/sets/sums.jsonl/log_prob") == ("knowledge", "data/sets/sums.jsonl", "log_prob")
    assert score_key("task/gsm8k/loss") == ("task", "gsm8k", "loss")


@pytest.mark.case("sets given as files")
def test_pages_and_terminal_name_file_and_score(build_report):
    report = build_report(methods=("full", "farss"), rates=(2e-4,))
    path = "somewhere/below/sums.jsonl"

    def moved(node):
        if isinstance(node, dict):
            return {k.replace("cloze", path): moved(v) for k, v in node.items()}
        return [moved(v) for v in node] if isinstance(node, list) else node

    report = moved(copy.deepcopy(report))
    for run in report["runs"]:
        for fact in run["facts"]["lost"]:
            fact["set"] = path
    assert "sums.jsonl log-prob −2.600" in base_line(report) and "below" not in base_line(report)
    page = render(report)
    heads = [html.unescape(re.sub(r"<[^>]*>", " ", h)).split() for h in re.findall(r"<th[^>]*>.*?</th>", page)]
    assert ["sums.jsonl", "accuracy"] in heads and ["sums.jsonl", "log-prob."] in heads and ["sums.jsonl"] in heads
    assert '<span class="set">sums.jsonl</span>' in page
