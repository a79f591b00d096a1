"""`farss train`: response-only supervised fine-tuning of an initialised adapter."""

from __future__ import annotations

import argparse
import sys

from farss.cli.options import ROWS, SCHEDULE, add_fresh_option, add_recipe_options, recipe_from
from farss.cli.output import emit, validation_lines

SUMMARY = "fine-tune an initialised adapter; the loss counts response tokens only"
EXAMPLE = "farss train --init init/ --data gsm8k --data-dir DATA --lr 2e-4 --out trained/"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The initialised folder, the data and the schedule."""
    parser.add_argument("--init", metavar="DIR", required=True, help="folder made by `farss init`")
    add_recipe_options(
        parser,
        (
            "--dtype",
            "--device",
            "--data",
            "--data-dir",
            *ROWS,
            "--train-rows",
            "--max-length",
            "--lr",
            "--epochs",
            "--batch-size",
            "--seed",
            *SCHEDULE,
        ),
    )
    add_fresh_option(parser)
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for checkpoints and the trained adapter")


def act(arguments: argparse.Namespace) -> int:
    """Train, or go on from the last checkpoint, and say where the adapter is."""
    from farss.experiment.steps import fine_tune, recipe_of, sources_of

    recorded = recipe_of(arguments.init)
    recipe = recipe_from(arguments, None if arguments.recipe else recorded)
    if not arguments.recipe:
        _say_what_is_read(arguments.init, sources_of(recorded), sources_of(recipe))
    result = fine_tune(recipe, arguments.init, arguments.out, fresh=arguments.fresh)
    lines = [
        f"{result['steps']} steps in {result['seconds']:.0f} s, {result['tokens_per_second']:.0f} tokens/s; "
        f"loss {result['first_loss']:.3f} to {result['last_loss']:.3f}",
        *validation_lines(result["while_training"]),
        *([f"ranks: {result['rank_realised']} of {result['rank_budget']} left"] if "rank_budget" in result else []),
        f"adapter: {result['adapter']}",
        f"next: farss export --adapter {result['adapter']} --to peft --out DIR",
    ]
    return emit(arguments, result, lines)


def _say_what_is_read(init: str, recorded: dict[str, str], asked: dict[str, str]) -> None:
    """Name the model, rows and files that nobody but the recipe in the folder names: it may be somebody else's."""
    taken = [f"{key} {value}" for key, value in asked.items() if recorded.get(key) == value]
    print(f"as {init} says: {', '.join(taken)}", file=sys.stderr, flush=True)
