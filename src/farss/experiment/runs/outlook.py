"""What a run will take on this machine: said before it begins, and corrected by every stage that is done.

Tokens are counted in characters, work in passes of a token forward through the model, and the machine's speed is that
of the timed products (`farss.model.arithmetic`). It is an estimate within about a factor of one and a half until the
first stages are done; from then on what they took stands for the rest.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from farss.amounts import duration
from farss.config import Recipe
from farss.experiment import materials
from farss.experiment.benchmarking import benchmark_answers
from farss.experiment.jobs import jobs_of
from farss.experiment.runs.keys import Keys
from farss.model.arithmetic import Arithmetic, speed_of
from farss.model.checkpoint import stored_numbers
from farss.model.devices import place
from farss.model.sources import resolve

CHARACTERS_PER_TOKEN = 3.0
"""Of questions and worked answers in English with numbers, which tokenizers split digit by digit."""

EFFICIENCY = 0.5
"""Share of the timed products' speed that a whole pass reaches: attention, norms and the optimiser come on top."""

STAGE_SECONDS = 5.0
"""A stage starts a process and loads the model."""

READINGS = 3.0
"""Passes over the tokens of a knowledge question: with the right answer, with the others, and to answer in words."""

CALIBRATION_PASSES, ADAPTER_PASSES, WEIGHT_PASSES = 3.0, 2.6, 3.2
"""Forward passes that a token costs in the statistics (with the gradient and the moments), in the training of an
adapter (with the gradient of the inputs and the adapter's own products), and in that of the weights."""

SAMPLED_ROWS = 200
"""Rows whose length is looked at."""

PLANS, BASE = "plans", "base"


@dataclass(frozen=True)
class Passes:
    """Work of one stage.

    Attributes:
        tokens: read forward once, or as many as cost the same.
        starts: processes that it takes.
    """

    tokens: float
    starts: int = 1


def work_of(recipe: Recipe) -> dict[str, Passes]:
    """The work of a run by "plans", "base" and the ids of its jobs; nothing is loaded but rows."""
    asked = recipe.eval
    held_out = materials.held_out_rows(recipe)
    questions = [question.prompt for chosen in materials.knowledge_sets(recipe) for question in chosen.questions]
    asking = _tokens(questions) * READINGS
    answering = benchmark_answers(recipe) or min(asked.generate_rows, len(held_out))
    measured = len(questions) * asking + len(held_out) * _tokens(held_out)
    measured += answering * asked.max_new_tokens
    points = len(set(asked.frontier_scales) - {0.0, 1.0})
    frontier = points * asked.frontier_rows * (len(asked.knowledge) * asking / READINGS + _tokens(held_out))
    passes = Keys(recipe).passes
    calibration = sum(_calibration_tokens(taken.recipe) for taken in passes) * CALIBRATION_PASSES
    found = {PLANS: Passes(calibration, 1 + len(passes)), BASE: Passes(measured)}
    learned: dict[str, float] = {}
    for job in jobs_of(recipe):
        if job.variant not in learned:
            learned[job.variant] = _learned_tokens(job.recipe(recipe))
        cost = ADAPTER_PASSES if job.adapts else WEIGHT_PASSES
        found[job.id] = Passes(learned[job.variant] * cost + measured + frontier, 2)
    return found | {name: Passes(measured + frontier) for name in recipe.subjects}


def _learned_tokens(recipe: Recipe) -> float:
    training, steps = materials.training_rows(recipe), recipe.train.max_steps
    seen = len(training) * recipe.train.epochs if steps is None else steps * recipe.train.batch_size
    return seen * _tokens(training)


def _calibration_tokens(recipe: Recipe) -> float:
    training = materials.training_rows(recipe)
    return min(_calibration_rows(recipe), len(training)) * _tokens(training)


def _calibration_rows(recipe: Recipe) -> int:
    rows = recipe.data.calibration_rows
    return rows if isinstance(rows, int) else 32  # what `auto` usually comes to


def _tokens(rows: Sequence[Any]) -> float:
    """Mean tokens of rows, by the characters of the first of them."""
    chosen = rows[:SAMPLED_ROWS]
    return sum(_characters(row) for row in chosen) / len(chosen) / CHARACTERS_PER_TOKEN if chosen else 0.0


def _characters(row: Any) -> int:
    if isinstance(row, Mapping):
        return sum(_characters(value) for value in row.values())
    if isinstance(row, (list, tuple)):
        return sum(_characters(value) for value in row)
    return len(row) if isinstance(row, str) else 0


class Remaining:
    """Says how long a run will take, and after each stage how long it still will.

    Args:
        recipe: of the run.
        decided: its arithmetic.
        workers: how many jobs are done at a time.
        done: ids whose work is finished already.
    """

    def __init__(self, recipe: Recipe, decided: Arithmetic, workers: int, done: Sequence[str] = ()) -> None:
        numbers = stored_numbers(resolve(recipe.model.name, recipe.model.revision))
        speed = speed_of(getattr(torch, decided.weights), place(recipe.device)) * 1e9 * EFFICIENCY
        self.seconds = {
            name: workers * 2 * numbers * work.tokens / speed + work.starts * STAGE_SECONDS
            for name, work in work_of(recipe).items()
            if name not in done
        }
        self.workers, self.started = workers, time.monotonic()
        self._finished, self._lock = 0.0, threading.Lock()
        if self.seconds:
            self._say("in all on this machine", sum(self.seconds.values()) / workers)

    def finished(self, name: str) -> None:
        """A stage is done: say what is left, at the pace so far."""
        with self._lock:
            taken = self.seconds.pop(name, 0.0)
            self._finished += taken / self.workers
            left = sum(self.seconds.values()) / self.workers
            if not taken or not left:
                return
            pace = (time.monotonic() - self.started) / self._finished
            self._say("left", left * (pace if self._finished > left / 2 else (1 + pace) / 2))

    @staticmethod
    def _say(what: str, seconds: float) -> None:
        print(f"about {duration(seconds)} {what}", file=sys.stderr, flush=True)
