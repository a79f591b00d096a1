"""`farss run RECIPE`: init, train, export, evaluate and report, for one or many methods and seeds."""

from __future__ import annotations

import argparse

from farss.cli.options import RUN_FLAGS, add_fresh_option, add_recipe_options, add_workers_option, recipe_from
from farss.cli.output import print_run
from farss.errors import ConfigError

SUMMARY = "fine-tune with every method of a recipe, measure what was gained and kept, write the report"
EXAMPLE = "farss run gsm8k-smollm2 --data-dir DATA --out runs/gsm8k"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The recipe and flags that override it."""
    parser.add_argument("positional_recipe", metavar="RECIPE", nargs="?", help="YAML file or the name of a shipped one")
    add_recipe_options(parser, RUN_FLAGS)
    parser.add_argument("--out", metavar="DIR", help="run folder (default runs/NAME)")
    add_fresh_option(parser)
    add_workers_option(parser)


def act(arguments: argparse.Namespace) -> int:
    """Run the recipe, or go on with it, and print the table."""
    from farss.experiment.runs.recipes import find_recipe
    from farss.experiment.runs.run import run

    if arguments.positional_recipe and arguments.recipe:
        raise ConfigError("two recipes", got=f"{arguments.positional_recipe} and --recipe {arguments.recipe}")
    if arguments.positional_recipe:
        arguments.recipe = str(find_recipe(arguments.positional_recipe))
    recipe = recipe_from(arguments)
    report, folder = run(recipe, arguments.out, arguments.workers, fresh=arguments.fresh)
    return print_run(arguments, report, folder)
