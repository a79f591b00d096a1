"""`farss init`: statistics, plan, adapter."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from farss.cli.options import ROWS, add_recipe_options, recipe_from
from farss.cli.output import emit
from farss.errors import ConfigError

if TYPE_CHECKING:
    from farss.experiment.initialisation.outlook import Forecast

SUMMARY = "take statistics, decide a plan (an editable plan.json) and build the adapter it describes"
EXAMPLE = "farss init --model smollm2-135m --data gsm8k --data-dir DATA --method farss --out init/"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Model, data, method, and an optional edited plan."""
    add_recipe_options(
        parser,
        (
            "--model",
            "--revision",
            "--dtype",
            "--device",
            "--data",
            "--data-dir",
            *ROWS,
            "--calibration-rows",
            "--calibration-order",
            "--select",
            "--validation-rows",
            "--max-length",
            "--rank",
            "--match",
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
    parser.add_argument("--stats", metavar="PATH", help="use these statistics (file or folder) instead of the data")
    parser.add_argument(
        "--shard", metavar="I/N", help="only take the method's statistics of every N-th example, from the I-th on"
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for plan.json, adapter/ and statistics")


def act(arguments: argparse.Namespace) -> int:
    """Initialise and say where the plan and the adapter are."""
    from farss.amounts import size
    from farss.experiment.initialisation.initialising import initialise
    from farss.experiment.initialisation.sharding import initialise_shard
    from farss.experiment.initialisation.statistics import Shard

    recipe = recipe_from(arguments)
    if arguments.shard:
        if arguments.plan or arguments.stats:
            raise ConfigError("a shard takes statistics; it obeys no plan and reads no others", where="--shard")
        taken = initialise_shard(recipe, arguments.out, Shard.parse(arguments.shard), arguments.method)
        text = f"shard {taken['shard']}: {taken['sequences']} examples, {taken['tokens']:,} tokens"
        files = [f"{name}: {file}" for name, file in taken["statistics"].items()]
        return emit(arguments, taken, [text, *files])
    result = initialise(
        recipe,
        arguments.method,
        arguments.out,
        plan_file=arguments.plan,
        engine=arguments.engine,
        statistics=arguments.stats,
        announce=_announce,
    )
    if result is None:
        return 0  # another process of the crew speaks
    ranks = f"{result['modules']} modules, {result['trainable_params']:,} trainable parameters"
    if result["requested_params"]:
        ranks += f" ({result['requested_params']:,} asked for)"
    memory = f"{size(result['peak_bytes'])}, {size(result['predicted_peak_bytes'])} predicted"
    lines = [
        f"{result['method']}: {ranks}; initialised in {result['seconds']:.1f} s",
        f"{result['engine']} engine: peak memory {memory}",
        _start(result["max_logit_difference"]),
        f"plan: {result['plan']}",
        f"adapter: {result['adapter']}",
    ]
    return emit(arguments, result, lines)


def _announce(expected: Forecast) -> None:
    from farss.amounts import duration, size

    time = "" if expected.seconds is None else f", {duration(expected.seconds)} with nothing cached"
    tokens = f" for {expected.tokens:,} tokens" if expected.tokens else ""
    if expected.least is not None:
        seconds, fewest = expected.least
        tokens += f" if all rows are read, {duration(seconds)} for {fewest:,} if the first step is enough"
    print(
        f"predicted: peak memory {size(expected.peak_bytes)} on {expected.device}{time}{tokens}, "
        f"{expected.engine} engine",
        file=sys.stderr,
        flush=True,
    )


def _start(difference: float | None) -> str:
    if difference is None:
        return "start: the base's, by construction (the whole model was never in memory to compare outputs)"
    return f"start: largest logit difference to the base {difference:.1e}"
