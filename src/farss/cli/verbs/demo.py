"""`farss demo`: the whole story on a real small model with embedded data."""

from __future__ import annotations

import argparse

from farss.cli.options import RUN_FLAGS, add_fresh_option, add_recipe_options, add_workers_option, recipe_from
from farss.cli.output import print_run

SUMMARY = "compare full fine-tuning, LoRA, PiSSA, MiLoRA and FARSS on SmolLM2-135M, in minutes, on a CPU"
EXAMPLE = "farss demo"

MOST_WORKERS = 2
"""Two trainings of one thread each get through more tokens than one of two threads; more were not measured."""
JOB_BYTES = 5 * 10**9
"""Memory that a job of the demo may need: full fine-tuning in float32."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags that override the demo's recipe."""
    add_recipe_options(parser, RUN_FLAGS)
    parser.add_argument("--out", metavar="DIR", default="runs/demo", help="run folder (default runs/demo)")
    add_fresh_option(parser)
    add_workers_option(parser, default=None)


def act(arguments: argparse.Namespace) -> int:
    """Run the demo's recipe, or go on with it, and print the table."""
    from farss.config import Recipe
    from farss.experiment.runs.recipes import find_recipe
    from farss.experiment.runs.run import run
    from farss.experiment.workers import comfortable_workers

    recipe = recipe_from(arguments, Recipe.from_yaml(find_recipe("demo")))
    workers = comfortable_workers(MOST_WORKERS, JOB_BYTES) if arguments.workers is None else arguments.workers
    report, folder = run(recipe, arguments.out, workers, fresh=arguments.fresh)
    return print_run(arguments, report, folder)
