"""What an inspection found, in sentences whose every figure is a number of the report."""

from __future__ import annotations

from typing import Any

from farss.report.findings import NO_BREAK, Quantity, Sentence
from farss.report.numbers import count, decimal, finite, percent


def headline(report: dict[str, Any]) -> Sentence:
    """The boundary and the stability, in two short sentences."""
    boundary, layers = report["boundary"], report["model"]["layers"]
    said: Sentence = [_whole(boundary["planned"]), f" of {layers} layers are planned as shallow; "]
    if boundary["split"] is None or boundary["suggested"] != boundary["split"]:
        said += ["importance suggests no other boundary."]
    elif boundary["suggested"] == boundary["planned"]:
        said += ["importance suggests the same."]
    else:
        said += ["importance suggests ", _whole(boundary["suggested"]), "."]
    stable = report["stability"]
    said += [" Plans from two halves of the data share ", _percent(stable["overlap"]), " of their directions"]
    return [*said, ", where chance gives ", _percent(stable["chance"]), "."]


def boundary_sentences(report: dict[str, Any]) -> list[Sentence]:
    """How the suggestion comes about and how much it is worth."""
    found = report["boundary"]
    rule: Sentence = ["The default rule, about a fifth of the layers, gives ", _whole(found["default"]), "."]
    if found["split"] is None:
        return [rule, ["The importances cannot be cut in two: a layer has none, or there is one layer only."]]
    cut: Sentence = [
        "Two groups of mean log importance fit best with the first ",
        _whole(found["split"]),
        " layers apart, which explains ",
        _percent(found["gain"]),
        " of its variance",
    ]
    if finite(found["default_gain"]) is not None:
        cut += [" (the default rule’s cut ", _percent(found["default_gain"]), ")"]
    factor = Quantity(_factor(found["factor"]), found["factor"])
    if found["factor"] > 1:
        return [rule, [*cut, "; these are ", factor, " times as important as the others."]]
    return [rule, [*cut, "; but these are the less important ones (", factor, " times), so the default rule stands."]]


def facts(report: dict[str, Any]) -> list[tuple[str, Sentence]]:
    """The heading facts as (name, value)."""
    model, data = report["model"], report["data"]
    halves = [half["tokens"] for half in data["halves"]]
    tokens: Sentence = [Quantity(count(data["tokens"]), data["tokens"]), " of ", _whole(data["rows"]), " rows"]
    tokens += [" (halves of ", Quantity(count(halves[0]), halves[0]), " and ", Quantity(count(halves[1]), halves[1])]
    parameters = Quantity(count(model["parameters"]), model["parameters"])
    boundary = report["boundary"]
    return [
        ("model", [model["name"], ", ", parameters, f" parameters, {model['dtype']}"]),
        ("calibration tokens", [*tokens, ")"]),
        ("modules", [_whole(report["modules"]), " in ", _whole(model["layers"]), " layers"]),
        ("shallow layers", [_whole(boundary["planned"]), " planned, ", _whole(boundary["suggested"]), " suggested"]),
    ]


def stability_sentence(report: dict[str, Any]) -> Sentence:
    """Median and worst agreement."""
    found = report["stability"]
    said: Sentence = ["In the median module ", _percent(found["overlap"]), " of the directions are in both plans"]
    said += [" (Jaccard index ", Quantity(decimal(found["jaccard"], 2), found["jaccard"]), "), where random choices"]
    said += [" would share ", _percent(found["chance"])]
    if found["least"] is None:
        return [*said, "; all modules take all their directions."]
    ends = min(found["low"], found["high"])
    least = found["least"]
    said += [". Above chance that is ", Quantity(decimal(found["above_chance"], 2), found["above_chance"])]
    worst = Quantity(decimal(least["above_chance"], 2), least["above_chance"])
    said += [" (1: equal, 0: random); least steady is ", least["name"], " with ", worst, ". Weighted by the scores "]
    ranks = Quantity(f"{100 * found['ranks']:.1f} %", found["ranks"])
    return [*said, "the agreement is ", Quantity(decimal(ends, 2), ends), ", and ranks differ by ", ranks, "."]


def _whole(value: int) -> Quantity:
    return Quantity(str(value), value)


def _percent(value: float) -> Quantity:
    return Quantity(f"{percent(value)}{NO_BREAK}%", value)


def _factor(value: float) -> str:
    return f"{value:.2g}" if value < 100 else f"{value:.0f}"
