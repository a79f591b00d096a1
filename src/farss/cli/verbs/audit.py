"""`farss audit`: what any adapter or fine-tuned model kept of its base."""

from __future__ import annotations

import argparse
from pathlib import Path

from farss.cli.options import add_fresh_option, add_recipe_options, recipe_from
from farss.cli.output import cut_lines, emit

SUMMARY = "measure what any adapter or fine-tuned model kept of its base model, and list the facts it lost"
EXAMPLE = "farss audit --model smollm2-135m --adapter my-adapter/ --out audit/ --min-k 0.95"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Base, what is audited, on what, and the gate."""
    add_recipe_options(
        parser, ("--model", "--revision", "--dtype", "--device", "--data-dir", "--knowledge-rows", "--max-length")
    )
    parser.add_argument("--adapter", metavar="DIR", type=Path, help="any PEFT adapter folder")
    parser.add_argument("--finetuned", metavar="MODEL", help="a fine-tuned model instead: folder, short name or hub id")
    parser.add_argument("--tasks", metavar="NAMES", help="comma-separated knowledge sets (default facts)")
    parser.add_argument("--text", metavar="SET", help="general text whose loss is measured too: a file or NAME:SPLIT")
    parser.add_argument("--text-windows", metavar="N", type=int, default=64, help="windows of it at most (default 64)")
    parser.add_argument(
        "--min-k", metavar="K", type=float, help="exit with code 3 if less is kept, or it cannot be judged"
    )
    parser.add_argument(
        "--gate",
        default="K",
        choices=("K", "K_p"),
        help="what --min-k bounds: the ratio of accuracies (default) or of probabilities",
    )
    add_fresh_option(parser)
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for audit.html, audit.json and the samples")


def act(arguments: argparse.Namespace) -> int:
    """Audit and print what was kept."""
    from farss.experiment.auditing import audit
    from farss.experiment.subjects import Subject
    from farss.report.audit import lines

    recipe = recipe_from(arguments)
    if arguments.tasks:
        names = [name.strip() for name in arguments.tasks.split(",") if name.strip()]
        recipe = recipe.override({"eval.knowledge": names})
    report = audit(
        recipe,
        Subject(arguments.adapter, arguments.finetuned),
        arguments.out,
        text=arguments.text,
        text_windows=arguments.text_windows,
        min_k=arguments.min_k,
        gate=arguments.gate,
        fresh=arguments.fresh,
    )
    cut = cut_lines(report["cut"]["before"])
    return emit(arguments, report, [*lines(report), *cut, f"audit: {Path(arguments.out) / 'audit.html'}"])
