"""What was lost and gained, relation by relation (or subject by subject)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from farss.evaluation.forgetting import paired
from farss.evaluation.records import KnowledgeSample, Measurement
from farss.maths.intervals import mcnemar

UNNAMED = "other"
"""Questions whose set does not say what kind of fact they ask for."""


def by_relation(
    before: Measurement, after: Measurement, relations: Mapping[tuple[str, str], str | None]
) -> list[dict[str, Any]]:
    """Right answers before and after, for every kind of fact.

    Args:
        before: of the base model.
        after: of the fine-tuned model, same questions.
        relations: (set, question id) -> the kind of fact, None where the set does not say.

    Returns:
        One {set, relation, n, before, after (numbers of right answers), lost, gained, p (McNemar's exact test, 1
        where nothing changed), log_prob_change (nats per gold token, mean over questions)} per group, the largest loss
        first.

    Raises:
        DataError: if the two were not asked the same questions in the same way.
    """
    groups: dict[tuple[str, str], list[tuple[KnowledgeSample, KnowledgeSample]]] = defaultdict(list)
    for first, second in paired(before, after):
        groups[first.set, relations.get((first.set, first.id)) or UNNAMED].append((first, second))
    rows = [_row(name, relation, pairs) for (name, relation), pairs in groups.items()]
    return sorted(rows, key=lambda row: (row["gained"] - row["lost"], row["log_prob_change"]))


def _row(name: str, relation: str, pairs: list[tuple[KnowledgeSample, KnowledgeSample]]) -> dict[str, Any]:
    was, now = [first.right for first, _ in pairs], [second.right for _, second in pairs]
    test = mcnemar(was, now)
    return {
        "set": name,
        "relation": relation,
        "n": len(pairs),
        "before": sum(was),
        "after": sum(now),
        "lost": test.lost,
        "gained": test.gained,
        "p": test.p,
        "log_prob_change": sum(second.log_prob - first.log_prob for first, second in pairs) / len(pairs),
    }
