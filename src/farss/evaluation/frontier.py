"""The frontier: knowledge kept against task gained, as the trained update is scaled up and down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from farss.evaluation.panel import Panel, Statistic, Undefined
from farss.evaluation.records import Measurement
from farss.evaluation.scores import log_prob_change, measure, task_loss
from farss.maths.metrics import frontier_area


def frontier_points(
    measurements: Mapping[float, Measurement],
    before: Measurement,
    full: Measurement | None = None,
    *,
    bootstrap: int = 2000,
    seed: int = 0,
) -> tuple[list[dict[str, Any]], float | None]:
    """The points of one run's frontier, and the area under it.

    All points are computed on the questions that every scale was asked, however many more some were.

    Args:
        measurements: by scale of the update.
        before: of the base model.
        full: of the full fine-tuning that T is measured against; None if there is none.
        bootstrap: number of paired resamples.
        seed: of the resampling.

    Returns:
        Per scale, ascending: {"scale", "K_p", "T_l", "knowledge_log_prob" (change in nats per gold token, mean over
        sets), "task_loss" (nats per response token, mean over tasks)}, each {"value", "low", "high"} or None; and the
        area under K_p over T_l, None if any of these is undefined.

    Raises:
        ShapeError: if no question is common to all.
    """
    everyone = [*measurements.values(), before, *([full] if full is not None else [])]
    shared = {scale: taken.restricted_to(everyone) for scale, taken in sorted(measurements.items())}
    common = {"before": before.restricted_to(everyone)}
    common |= {} if full is None else {"full": full.restricted_to(everyone)}
    points = []
    for scale, taken in shared.items():
        panel = Panel({**common, "after": taken}, bootstrap=bootstrap, seed=seed)
        statistics: dict[str, Statistic] = {
            "K_p": measure(panel, "K_p", "after"),
            "T_l": measure(panel, "T_l", "after"),
            "knowledge_log_prob": _mean_of([log_prob_change(panel, chosen, "after") for chosen in panel.sets]),
            "task_loss": _mean_of([task_loss(panel, task, "after") for task in panel.tasks]),
        }
        points.append({"scale": scale, **{name: panel.estimate(found)[0] for name, found in statistics.items()}})
    pairs = [(point["T_l"], point["K_p"]) for point in points]
    if not pairs or any(gained is None or kept is None for gained, kept in pairs):
        return points, None
    return points, frontier_area([(gained["value"], kept["value"]) for gained, kept in pairs])


def _mean_of(statistics: list[Statistic]) -> Statistic:
    def statistic(average: Any) -> Any:
        if not statistics:
            raise Undefined("nothing of this kind was measured")
        return sum(one(average) for one in statistics) / len(statistics)

    return statistic
