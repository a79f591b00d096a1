"""`farss glue`: encoders fine-tuned on GLUE with every method."""

from __future__ import annotations

import argparse
from pathlib import Path

from farss.cli.options import add_fresh_option, add_recipe_options, add_workers_option, recipe_from
from farss.cli.output import emit
from farss.config import HeadConfig
from farss.errors import ConfigError

SUMMARY = "fine-tune an encoder on tasks of GLUE with several methods, classification head included, and compare them"
EXAMPLE = "farss glue --tasks sst2,rte --methods lora,pissa,farss --data-dir DATA --out runs/glue"
RATES = "comma-separated peak learning rates of adapters (learning_rates); `full` has full_learning_rates"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Model, tasks, methods, and how they are trained."""
    add_recipe_options(
        parser,
        (
            "--model",
            "--dtype",
            "--device",
            "--data-dir",
            "--train-rows",
            "--calibration-rows",
            "--max-length",
            "--rank",
            "--match",
            "--shallow-layers",
            "--base",
            "--epochs",
            "--max-steps",
            "--warmup-steps",
            "--schedule",
            "--optim",
            "--batch-size",
            "--task-rows",
        ),
    )
    parser.add_argument(
        "--tasks",
        "--task",
        metavar="NAMES",
        required=True,
        help="comma-separated: cola, sst2, mrpc, rte, qnli, stsb, ...",
    )
    parser.add_argument("--methods", metavar="NAMES", help="comma-separated names of `farss methods`")
    parser.add_argument("--lr", metavar="RATES", help=RATES)
    parser.add_argument("--seeds", "--seed", metavar="SEEDS", help="comma-separated seeds, of the head too (seeds)")
    parser.add_argument("--splits", metavar="NAMES", default="validation", help="validation (default), adversarial")
    text = "learn this task's training rows instead of each task's own; its labels must mean the same"
    parser.add_argument("--train-on", metavar="NAME", help=text)
    default = HeadConfig().warmup_steps
    text = f"steps that train only the head before statistics are taken (default {default}, 0 for none)"
    parser.add_argument("--head-warmup-steps", metavar="N", type=int, default=default, help=text)
    parser.add_argument(
        "--out", metavar="DIR", required=True, help="folder for results.json, table.md and the adapters"
    )
    add_fresh_option(parser)
    add_workers_option(parser)


def act(arguments: argparse.Namespace) -> int:
    """Run, or go on with, every task and method, and print the table."""
    from farss.experiment.encoders.classification import GLUE_RECIPE, run_glue
    from farss.report.glue import markdown

    recipe = recipe_from(arguments, GLUE_RECIPE)
    named = {"methods": _names(arguments.methods), "learning_rates": _numbers(arguments.lr, float, "--lr")}
    named["seeds"] = _numbers(arguments.seeds, int, "--seeds")
    recipe = recipe.override({key: value for key, value in named.items() if value})
    results = run_glue(
        recipe,
        _names(arguments.tasks),
        arguments.out,
        head=HeadConfig(warmup_steps=arguments.head_warmup_steps),
        splits=_names(arguments.splits),
        train_on=arguments.train_on,
        workers=arguments.workers,
        fresh=arguments.fresh,
    )
    return emit(arguments, results, [markdown(results), f"results: {Path(arguments.out) / 'results.json'}"])


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _numbers(text: str | None, kind: type, flag: str) -> list[float]:
    try:
        return [kind(part) for part in _names(text)]
    except ValueError:
        raise ConfigError("a list of numbers is expected", where=flag, got=text) from None
