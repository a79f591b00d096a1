"""`farss eval`: knowledge and task scores of one model, with standard errors."""

from __future__ import annotations

import argparse
from typing import Any

from farss.cli.options import ROWS, add_fresh_option, add_recipe_options, recipe_from
from farss.cli.output import cut_lines, emit

SUMMARY = "score a model, with or without an adapter, on knowledge sets, tasks and benchmarks; samples are kept"
EXAMPLE = (
    "farss eval --model smollm2-135m --adapter adapter-peft/ --tasks facts,facts_cloze,word_problems --out results/"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Model, adapter, tasks and how many rows."""
    limits = ("--knowledge-rows", "--task-rows", "--generate-rows")
    places = ("--model", "--revision", "--dtype", "--device", "--data", "--data-dir")
    add_recipe_options(parser, (*places, *ROWS, *limits))
    parser.add_argument(
        "--adapter",
        metavar="DIR",
        nargs="+",
        default=[],
        help="LoRA folders of PEFT, or ones written by `farss train`; `base` among several is the model alone",
    )
    parser.add_argument("--tasks", default="", help="comma-separated names of `farss tasks`; --data adds your own")
    parser.add_argument("--backend", choices=("torch", "vllm"), help="what reads and writes text (eval.backend)")
    add_fresh_option(parser)
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for results.json and the samples")


def act(arguments: argparse.Namespace) -> int:
    """Evaluate and print every score with its standard error and number of rows."""
    from farss.experiment.scoring import evaluate

    names = tuple(name.strip() for name in arguments.tasks.split(",") if name.strip())
    result = evaluate(
        recipe_from(arguments),
        names,
        arguments.out,
        adapters=arguments.adapter,
        backend=arguments.backend,
        fresh=arguments.fresh,
        task=vars(arguments)["data.task"],
    )
    runs = result.get("runs", {"": result})
    lines = [line for name, run in runs.items() for line in _lines(name, run)]
    return emit(arguments, result, [*lines, f"results: {result['path']}"])


def _lines(name: str, run: dict[str, Any]) -> list[str]:
    scores = [
        f"{key:<32} {score['value']:.4f} {_error(score['stderr'])}  n={score['n']}"
        for key, score in run["scores"].items()
    ]
    lines = [*scores, *cut_lines(run.get("cut", {}))]
    return [f"{name}:", *(f"  {line}" for line in lines)] if name else lines


def _error(error: float | None) -> str:
    return "" if error is None else f"+- {error:.4f}"
