"""Which facts were lost and which gained, question by question."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from farss.errors import DataError
from farss.evaluation.records import KnowledgeSample, Measurement, question_key
from farss.maths.intervals import mcnemar, share_interval


def facts(before: Measurement, after: Measurement) -> dict[str, Any]:
    """The questions that changed between right and wrong, and whether more were lost than chance explains.

    A question is right by its answer in words where there is one, else by the greedy path.

    Args:
        before: of the base model.
        after: of the fine-tuned model, same questions.

    Returns:
        `lost` and `gained`: lists of {set, question, gold, before, after (the words, None if there are none),
        log_prob_change (nats per token)}, the largest change first; `mcnemar`: {set: {lost, gained, p}}; `counts`:
        {set: {asked, known (right before), kept (right before and after)}}.

    Raises:
        DataError: if the two were not asked the same questions in the same way.
    """
    pairs = paired(before, after)
    changes = {
        "lost": [(first, second) for first, second in pairs if first.right and not second.right],
        "gained": [(first, second) for first, second in pairs if second.right and not first.right],
    }
    listed = {
        name: sorted((_change(*pair) for pair in found), key=lambda c: -abs(c["log_prob_change"]))
        for name, found in changes.items()
    }
    tests, counts = {}, {}
    for name in dict.fromkeys(first.set for first, _ in pairs):
        chosen = [(first.right, second.right) for first, second in pairs if first.set == name]
        tests[name] = asdict(mcnemar([first for first, _ in chosen], [second for _, second in chosen]))
        known = sum(first for first, _ in chosen)
        counts[name] = {"asked": len(chosen), "known": known, "kept": known - tests[name]["lost"]}
    return {**listed, "mcnemar": tests, "counts": counts}


def facts_account(changed: dict[str, Any], most: int) -> dict[str, Any]:
    """What results say of facts: what the base knew and how much of it is kept, told apart from what is new.

    Args:
        changed: from `facts`.
        most: of the facts lost, and of those gained, at most so many are listed; all are counted.

    Returns:
        `asked_count`, `known_count` (right before), `kept_count` (right before and after), `lost_count` (their
        difference), `gained_count` (right after only); `kept`: kept of known as {value, low, high} with Wilson's 95 %
        interval, None where the base knew nothing; `lost`, `gained`, `mcnemar` and `counts` as `facts` gives them.
    """
    totals = {key: sum(found[key] for found in changed["counts"].values()) for key in ("asked", "known", "kept")}
    return {
        **{f"{key}_count": total for key, total in totals.items()},
        "lost_count": len(changed["lost"]),
        "gained_count": len(changed["gained"]),
        "kept": share_interval(totals["kept"], totals["known"]).to_mapping() if totals["known"] else None,
        "lost": changed["lost"][:most],
        "gained": changed["gained"][:most],
        "mcnemar": changed["mcnemar"],
        "counts": changed["counts"],
    }


def paired(before: Measurement, after: Measurement) -> list[tuple[KnowledgeSample, KnowledgeSample]]:
    """The two answers to every question, in the order of `before`.

    Raises:
        DataError: if the two were not asked the same questions in the same way.
    """
    answers = {question_key(sample): sample for sample in after.knowledge}
    missing = {question_key(sample) for sample in before.knowledge} ^ answers.keys()
    if missing:
        raise DataError(
            "the two models were asked different questions", got=f"{len(missing)} without a pair, e.g. {min(missing)}"
        )
    pairs = [(sample, answers[question_key(sample)]) for sample in before.knowledge]
    uneven = [first.set for first, second in pairs if (first.correct is None) != (second.correct is None)]
    if uneven:
        raise DataError("only one of the two models answered in words", where=uneven[0])
    return pairs


def _change(first: KnowledgeSample, second: KnowledgeSample) -> dict[str, Any]:
    return {
        "set": first.set,
        "question": first.question,
        "gold": first.gold,
        "before": first.words,
        "after": second.words,
        "log_prob_change": second.log_prob - first.log_prob,
    }
