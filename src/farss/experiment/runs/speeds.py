"""How fast each training went beside plain LoRA, where the two can be compared at all."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from farss.experiment.runs.finished import FinishedJob

PLAIN = "lora"


def speeds_to_lora(jobs: Sequence[FinishedJob]) -> list[float | None]:
    """Training tokens per second over those of plain `lora` (median of its trainings) on the same machine.

    None for a training whose account does not say that it had the machine for itself, as far as this run knows, or
    where no `lora` had the same machine so. Machines and what else runs on them vary by the hour: an indication only.
    """
    places = [_alone_on(done) for done in jobs]
    plain: dict[str, list[float]] = {}
    for done, place in zip(jobs, places, strict=True):
        if place is not None and done.job.method == PLAIN:
            plain.setdefault(place, []).append(done.trained["train_tokens_per_second"])
    medians = {place: statistics.median(speeds) for place, speeds in plain.items()}
    return [
        done.trained["train_tokens_per_second"] / medians[place] if place is not None and medians.get(place) else None
        for done, place in zip(jobs, places, strict=True)
    ]


def _alone_on(done: FinishedJob) -> str | None:
    """The machine of a training, in a form that can be compared; None where it was shared or is not known."""
    machine = done.trained.get("machine")
    return json.dumps(machine, sort_keys=True) if machine and done.trained.get("alone") else None
