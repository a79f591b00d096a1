"""`farss init`: statistics, plan, adapter."""

from __future__ import annotations

import argparse

from farss.cli.options import add_recipe_options, recipe_from
from farss.cli.output import emit

SUMMARY = "take statistics, decide a plan (an editable plan.json) and build the adapter it describes"
EXAMPLE = "farss init --model smollm2-135m --data gsm8k --data-dir DATA --method farss --out init/"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Model, data, method, and an optional edited plan."""
    add_recipe_options(
        parser,
        (
            "--model",
            "--dtype",
            "--data",
            "--data-dir",
            "--calibration-rows",
            "--max-length",
            "--rank",
            "--shallow-layers",
            "--base",
            "--compat",
            "--seed",
        ),
    )
    parser.add_argument("--method", default="farss", help="a name of `farss methods` (default farss)")
    parser.add_argument("--plan", metavar="FILE", help="obey this plan instead of deciding one; no data are needed")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for plan.json, adapter/ and statistics")


def act(arguments: argparse.Namespace) -> int:
    """Initialise and say where the plan and the adapter are."""
    from farss.experiment.steps import initialise

    result = initialise(recipe_from(arguments), arguments.method, arguments.out, plan_file=arguments.plan)
    ranks = f"{result['modules']} modules, {result['trainable_params']:,} trainable parameters"
    lines = [
        f"{result['method']}: {ranks}; initialised in {result['seconds']:.1f} s",
        f"start: largest logit difference to the base {result['max_logit_difference']:.1e}",
        f"plan: {result['plan']}",
        f"adapter: {result['adapter']}",
    ]
    return emit(arguments, result, lines)
