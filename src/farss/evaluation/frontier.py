"""The frontier: knowledge kept against task gained, as the trained update is scaled up and down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from farss.evaluation.panel import Panel, Statistic, Undefined
from farss.evaluation.records import Measurement
from farss.evaluation.scores import log_prob_change, measure, panel_models, run_column, task_loss
from farss.maths.metrics import frontier_area


def frontier_points(
    measurements: Mapping[float, Measurement],
    before: Measurement,
    full: Measurement | None = None,
    *,
    bootstrap: int = 2000,
    seed: int = 0,
) -> tuple[list[dict[str, Any]], dict[str, float | None] | None]:
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
        area under K_p over T_l, {"value", "low", "high"}, None if any of these is undefined. Its interval is over the
        same paired resamples, each of which has an envelope of its own.

    Raises:
        ShapeError: if no question is common to all.
    """
    panel = frontier_panel({"": measurements}, before, full, bootstrap=bootstrap, seed=seed)
    points = []
    for scale in sorted(measurements):
        place = point_column("", scale)
        statistics: dict[str, Statistic] = {
            "K_p": measure(panel, "K_p", place),
            "T_l": measure(panel, "T_l", place),
            "knowledge_log_prob": _mean_of([log_prob_change(panel, chosen, place) for chosen in panel.sets]),
            "task_loss": _mean_of([task_loss(panel, task, place) for task in panel.likely]),
        }
        points.append({"scale": scale, **{name: panel.estimate(found)[0] for name, found in statistics.items()}})
    return points, panel.estimate(area_under(panel, "", list(measurements)))[0] if points else None


def frontier_panel(
    runs: Mapping[str, Mapping[float, Measurement]],
    before: Measurement,
    full: Measurement | None = None,
    *,
    bootstrap: int = 2000,
    seed: int = 0,
) -> Panel:
    """The frontiers of several runs on the questions that every scale of every one of them was asked.

    Args:
        runs: measurements by run and scale; `point_column` names each in the panel.
        before: of the base model.
        full: of the full fine-tuning that T is measured against; None if there is none.
        bootstrap: number of paired resamples.
        seed: of the resampling.

    Raises:
        ShapeError: if no question is common to all.
    """
    points = {(run, scale): taken for run, scales in runs.items() for scale, taken in scales.items()}
    models = panel_models({point_name(*point): taken for point, taken in points.items()}, before, full)
    common = before.restricted_to(models.values())
    shared = {name: taken.restricted_to([common]) for name, taken in models.items()}
    return Panel(shared, bootstrap=bootstrap, seed=seed)


def point_column(run: str, scale: float) -> str:
    """The name in a frontier panel of a run whose update is scaled."""
    return run_column(point_name(run, scale))


def point_name(run: str, scale: float) -> str:
    """A run's name with a scale of its update."""
    return f"{run} x {scale:g}"


def area_under(panel: Panel, run: str, scales: Sequence[float]) -> Statistic:
    """The area under one run's frontier in a `frontier_panel`, K_p over T_l."""

    def statistic(average: Any) -> Any:
        places = [point_column(run, scale) for scale in scales]
        kept = [measure(panel, "K_p", place)(average) for place in places]
        gained = [measure(panel, "T_l", place)(average) for place in places]
        return frontier_area(list(zip(gained, kept, strict=True)))

    return statistic


def _mean_of(statistics: list[Statistic]) -> Statistic:
    def statistic(average: Any) -> Any:
        if not statistics:
            raise Undefined("nothing of this kind was measured")
        return sum(one(average) for one in statistics) / len(statistics)

    return statistic
