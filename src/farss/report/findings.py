"""What the numbers say, in sentences whose every figure is a number of the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from farss.report.differences import (
    Compared,
    compared_methods,
    contestants,
    contrasts,
    corrected_difference,
    estimate_of,
)
from farss.report.differences import best as best_first
from farss.report.numbers import (
    Estimate,
    count,
    decimal,
    estimate,
    finite,
    percent,
    percent_places,
    rate,
    tagged,
    with_indices,
)
from farss.report.runs import Run, catalogue, ranking_measure, trials

AHEAD, LEVEL, BEHIND = "ahead", "level", "behind"
NO_BREAK = "\u00a0"
LONGEST_HEADLINE = 172
"""Characters that two lines of the page's width hold in the widest of the fonts a reader may have."""
LONGEST_NAME = 26
NOT_MEASURED = "Nothing was compared yet: no run carries a measure of knowledge kept or task gained."


@dataclass(frozen=True)
class Quantity:
    """A number inside a sentence: its text and its exact value in the report."""

    text: str
    value: float


Sentence = list[str | Quantity]

NO_TASK_GAIN = (
    "Task gained is not defined without a full fine-tuning that learned the task; "
    "knowledge kept alone favours the run that learned least."
)
MEASURE_NAMES = {
    "KT_l": "KT_l, the harmonic mean of probability kept (K_p) and task share gained (T_l)",
    "KT": "KT, the harmonic mean of the ratios of accuracies on knowledge (K) and on the task (T)",
    "K_p": "the right answers’ probability kept, K_p",
    "K": "K, the ratio of accuracies on knowledge after and before",
}


def plain(sentence: Sentence) -> str:
    """The sentence as text, for a terminal."""
    return "".join(part if isinstance(part, str) else part.text for part in sentence).replace(NO_BREAK, " ")


def markup(sentence: Sentence) -> Markup:
    """The sentence as HTML, text escaped, each number in a `data` element with its exact value."""
    return Markup("").join(with_indices(p) if isinstance(p, str) else tagged(p.value, p.text) for p in sentence)


def headline(report: dict[str, Any]) -> Sentence:
    """The finding in one sentence of two lines: what the best method keeps and gains, and whom it is told apart from.

    Two methods count as told apart only when the interval of their difference excludes zero: the one corrected for the
    number of pairs where the report holds it, else the one of the two runs alone. Where there is neither, their own
    intervals must not overlap. Other methods are named as long as the sentence stays short, else counted.
    """
    runs = catalogue(report)
    best = contestants(report, runs)
    if not best:
        return [NOT_MEASURED]
    subject = next((r for r in best if not r.full), best[0])
    label = _capital(_cut(subject.method_label))
    said: Sentence = [label, " ", *_kept(report, subject), *_gained(report, subject)]
    last: Sentence = [*_task_loss(report, subject), "."]
    groups = _standings(report, subject, [r for r in best if r is not subject], ranking_measure(runs) or "")
    ends = [*_verdicts(groups), ""]
    end = next((end for end in ends if len(plain([*said, end, *last])) <= LONGEST_HEADLINE), "")
    return [*said, end, *last]


def _cut(label: str) -> str:
    return label if len(label) <= LONGEST_NAME else label[: LONGEST_NAME - 1] + "…"


def _percent(found: Estimate) -> Sentence:
    places = percent_places(found)
    sentence: Sentence = [Quantity(f"{percent(found.value, places)}{NO_BREAK}%", found.value)]
    if found.low is not None and found.high is not None:
        low, high = Quantity(percent(found.low, places), found.low), Quantity(percent(found.high, places), found.high)
        sentence += [f"{NO_BREAK}[", low, f",{NO_BREAK}", high, "]"]
    return sentence


def _kept(report: dict[str, Any], run: Run) -> Sentence:
    """What is left of the base model; a ratio that new answers raise is called a ratio."""
    if found := estimate_of(report, run, "K_p"):
        if found.value > 1:
            moved = ("raises", "to") if (found.low or 0) > 1 else ("leaves", "at")
            return [f"{moved[0]} the right answers’ probability {moved[1]} ", *_percent(found)]
        return ["keeps ", *_percent(found), " of the right answers’ probability"]
    if found := run.measure("K"):
        return ["answers ", *_percent(found), " as many knowledge questions right as the base"]
    return ["has no measure of knowledge kept"]


def _gained(report: dict[str, Any], run: Run) -> Sentence:
    if run.full:
        return []
    if found := estimate_of(report, run, "T_l"):
        if found.low is not None and found.low <= 0 <= (found.high or 0):
            return [" and shows no task gain that can be told from zero (", *_percent(found), " of full fine-tuning’s)"]
        if found.value < 0:
            return [" and makes the task worse (", *_percent(found), " of full fine-tuning’s gain)"]
        return [" and reaches ", *_percent(found), " of full fine-tuning’s gain"]
    if found := run.measure("T"):
        return [" and reaches ", *_percent(found), " of full fine-tuning’s task accuracy"]
    return []


def _task_loss(report: dict[str, Any], run: Run) -> Sentence:
    """Where no task gain is defined: the loss on the task before and after, which is all that can be said."""
    if run.full or run.measure("T_l") or run.measure("T"):
        return []
    base = (report.get("base") or {}).get("scores") or {}
    for key in base:
        before, after = estimate(base[key]), estimate(run.score(key))
        if key.startswith("task/") and key.endswith("/loss") and before and after:
            first, second = Quantity(decimal(before.value), before.value), Quantity(decimal(after.value), after.value)
            return [", while its task loss goes from ", first, " to ", second, " nats per token"]
    return []


def _standings(report: dict[str, Any], subject: Run, rivals: list[Run], measure: str) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {AHEAD: [], LEVEL: [], BEHIND: []}
    for rival in rivals:
        groups[standing(report, subject, rival, measure)].append(_cut(rival.method_label))
    return groups


def _verdicts(groups: dict[str, list[str]]) -> list[str]:
    """The end of the sentence, from the fullest wording to the shortest."""
    total = sum(map(len, groups.values()))
    if not total:
        return []
    if len(groups[AHEAD]) == total > 2:
        return [f", ahead of all {total} other methods"]
    words = {AHEAD: "ahead of", LEVEL: "not separable from", BEHIND: "behind"}
    named = {side: _listed(found) for side, found in groups.items() if found}
    counted = {side: found[0] if len(found) == 1 else str(len(found)) for side, found in groups.items() if found}
    wordings = [", " + _listed([f"{words[side]} {who}" for side, who in said.items()]) for said in (named, counted)]
    bare = [f"{words[side]} {len(found)}" for side, found in groups.items() if found]
    return [*wordings, ", " + _listed(bare)]


def standing(report: dict[str, Any], subject: Run, rival: Run, measure: str) -> str:
    """Where `subject` stands to `rival` on `measure`: `ahead`, `level` (not separable) or `behind`."""
    paired = corrected_difference(report, subject, rival, measure)
    if paired is None:
        paired = paired_difference(report, subject.id, rival.id, measure)
    if paired is not None and paired.has_interval:
        if not paired.excludes_zero:
            return LEVEL
        return AHEAD if paired.value > 0 else BEHIND
    ours, theirs = subject.measure(measure), rival.measure(measure)
    if ours is None or theirs is None or not ours.has_interval or not theirs.has_interval or ours.overlaps(theirs):
        return LEVEL
    return AHEAD if ours.value > theirs.value else BEHIND


def paired_difference(report: dict[str, Any], a: str, b: str, measure: str) -> Estimate | None:
    """The paired difference a - b on `measure`, whichever way round the report holds it."""
    for entry in report.get("comparisons") or []:
        if entry.get("measure") != measure:
            continue
        if (entry.get("a"), entry.get("b")) == (a, b):
            return estimate(entry)
        if (entry.get("a"), entry.get("b")) == (b, a):
            found = estimate(entry)
            return None if found is None else -found
    return None


def _listed(names: list[str]) -> str:
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def standfirst(report: dict[str, Any]) -> list[Sentence]:
    """The sentences under the headline: how the verdict was reached, the reference, the frontier."""
    runs = catalogue(report)
    best = contestants(report, runs)
    measure = ranking_measure(runs)
    if not best or measure is None:
        return []
    subject = next((r for r in best if not r.full), best[0])
    sentences: list[Sentence] = []
    if len(best) > 1:
        sentences.append([f"Judged by {MEASURE_NAMES[measure]}; {_rates_sentence(report, runs, best)}."])
    if measure in ("K_p", "K"):
        sentences.append([NO_TASK_GAIN])
    full = next((r for r in best if r.full), None)
    if full is not None and full is not subject and (full.measure("K_p") or full.measure("K")):
        sentences.append(["Full fine-tuning itself ", *_kept(report, full), "."])
    sentences += _family_sentence(report, runs, measure)
    sentences += _areas_sentence(report, runs) or _frontier_sentence(runs)
    sentences += _facts_sentence(subject)
    return sentences


def _rates_sentence(report: dict[str, Any], runs: list[Run], best: list[Run]) -> str:
    if all(b.validation_loss is not None for b in best):
        return f"the loss on validation rows, which no score uses, chose {len(runs)} of {len(trials(report))} trials"
    if all(len({r.rate for r in runs if r.method == b.method}) == 1 for b in best):
        return "each method ran at one learning rate"
    chosen = ", ".join(f"{b.method_label} {rate(b.rate)}" for b in best if b.rate is not None)
    return f"each method is taken at the best of its learning rates ({chosen})"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _family_sentence(report: dict[str, Any], runs: list[Run], measure: str) -> list[Sentence]:
    """How many comparisons the verdict is corrected for, and which methods' chance of training it cannot know."""
    pairs = contrasts(report, runs).get(measure)
    if not pairs:
        return []
    single = [method.label for method in compared_methods(report, runs).values() if method.seeds == 1]
    several = len(single) < len(compared_methods(report, runs))
    limit = "; how much another seed would change is not in it" + (f" for {_listed(single)}" if several else "")
    return [[f"The verdict is corrected for all {len(pairs)} pairs of methods{limit if single else ''}."]]


def _areas_sentence(report: dict[str, Any], runs: list[Run]) -> list[Sentence]:
    """The two largest frontier areas and whether they differ, where methods were compared in them."""
    pairs = contrasts(report, runs).get("frontier_area", [])
    order = best_first(list(compared_methods(report, runs).values()), "frontier_area")[:2]
    pair = next((p for p in pairs if {p.a.name, p.b.name} == {method.name for method in order}), None)
    if pair is None:
        return []
    verdict = "which differ" if pair.found.excludes_zero else "which cannot be told apart"
    sentence: Sentence = ["Over all scales of the trained update, the largest frontier areas are those of "]
    return [[*sentence, *_area(order[0]), " and ", *_area(order[1]), f", {verdict}."]]


def _area(method: Compared) -> Sentence:
    found = method.measure("frontier_area")
    if found is None or found.low is None or found.high is None:
        return [method.label]
    value, low, high = (Quantity(decimal(v), v) for v in (found.value, found.low, found.high))
    return [f"{method.label} (", value, f"{NO_BREAK}[", low, f",{NO_BREAK}", high, "])"]


def _frontier_sentence(runs: list[Run]) -> list[Sentence]:
    areas: dict[str, tuple[float, Run]] = {}
    for run in runs:
        area = estimate(run.record.get("frontier_area"))
        if area is not None and (run.method not in areas or area.value > areas[run.method][0]):
            areas[run.method] = (area.value, run)
    if len(areas) < 2:
        return []
    (first, leader), (second, runner_up) = sorted(areas.values(), key=lambda pair: -pair[0])[:2]
    sentence: Sentence = ["Over all scales of the trained update, the largest frontier area is that of "]
    sentence += [leader.name, " (", Quantity(decimal(first), first), "), then ", runner_up.name]
    return [[*sentence, " (", Quantity(decimal(second), second), ")."]]


def _facts_sentence(run: Run) -> list[Sentence]:
    facts = run.record.get("facts") or {}
    lost, gained = finite(facts.get("lost_count")), finite(facts.get("gained_count"))
    if lost is None or gained is None:
        return []
    lost_quantity, gained_quantity = Quantity(count(lost), lost), Quantity(count(gained), gained)
    known = finite(facts.get("known_count"))
    knew: Sentence = ["Of the facts"] if known is None else ["Of the ", Quantity(count(known), known), " facts"]
    lost_ones: Sentence = [f" that the base model knew, {run.method_label} lost ", lost_quantity]
    return [[*knew, *lost_ones, "; of the others it gained ", gained_quantity, "."]]
