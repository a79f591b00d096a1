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
    engines = "auto, resident (the model in memory) or streamed (one block of it at a time; for large models)"
    parser.add_argument("--engine", default="auto", choices=("auto", "resident", "streamed"), help=engines)
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for plan.json, adapter/ and statistics")


def act(arguments: argparse.Namespace) -> int:
    """Initialise and say where the plan and the adapter are."""
    from farss.experiment.initialising import initialise
    from farss.model.cost import format_bytes

    result = initialise(
        recipe_from(arguments), arguments.method, arguments.out, plan_file=arguments.plan, engine=arguments.engine
    )
    ranks = f"{result['modules']} modules, {result['trainable_params']:,} trainable parameters"
    lines = [
        f"{result['method']}: {ranks}; initialised in {result['seconds']:.1f} s",
        f"{result['engine']} engine: peak memory {format_bytes(result['peak_bytes'])}, "
        f"{format_bytes(result['predicted_peak_bytes'])} predicted",
        _start(result["max_logit_difference"]),
        f"plan: {result['plan']}",
        f"adapter: {result['adapter']}",
    ]
    return emit(arguments, result, lines)


def _start(difference: float | None) -> str:
    if difference is None:
        return "start: the base's, by construction (the whole model was never in memory to compare outputs)"
    return f"start: largest logit difference to the base {difference:.1e}"
