"""`farss demo`: the whole story on a real small model with embedded data."""

from __future__ import annotations

import argparse

from farss.cli.options import RUN_FLAGS, add_fresh_option, add_recipe_options, add_workers_option, recipe_from
from farss.cli.output import print_run

SUMMARY = "compare full fine-tuning, LoRA, PiSSA, MiLoRA and FARSS on SmolLM2-135M, in minutes, on a CPU"
EXAMPLE = "farss demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags that override the demo's recipe."""
    add_recipe_options(parser, RUN_FLAGS)
    parser.add_argument("--out", metavar="DIR", default="runs/demo", help="run folder (default runs/demo)")
    add_fresh_option(parser)
    add_workers_option(parser)


def act(arguments: argparse.Namespace) -> int:
    """Run the demo's recipe, or go on with it, and print the table."""
    from farss.config import Recipe
    from farss.experiment.runs.recipes import find_recipe
    from farss.experiment.runs.run import run

    recipe = recipe_from(arguments, Recipe.from_yaml(find_recipe("demo")))
    report, folder = run(recipe, arguments.out, arguments.workers, fresh=arguments.fresh)
    return print_run(arguments, report, folder)
