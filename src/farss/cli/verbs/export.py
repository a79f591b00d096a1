"""`farss export`: a trained adapter as files that other tools load."""

from __future__ import annotations

import argparse

from farss.cli.options import add_recipe_options, recipe_from
from farss.cli.output import emit

SUMMARY = "write a trained adapter as a plain LoRA, a one-scale LoRA, a merged model or the residual form, checked"
EXAMPLE = "farss export --adapter trained/adapter --to peft --out adapter-peft/"
FORMS = ("peft", "portable", "merged", "residual")
DTYPES = ("checkpoint", "float32", "bfloat16", "float16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which adapter, which form, where to."""
    parser.add_argument("--adapter", metavar="DIR", required=True, help="adapter folder written by `farss train`")
    add_recipe_options(parser, ("--model", "--revision"))
    parser.add_argument("--to", choices=FORMS, default="peft", help="form (default peft)")
    parser.add_argument("--rank", type=int, help="with --to portable: recompress to this rank, error printed")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="checkpoint", help="with --to merged: of the weights (default checkpoint's)"
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="new folder")


def act(arguments: argparse.Namespace) -> int:
    """Export, check that the written files give the trained model's outputs, and say by how much they differ."""
    from farss.experiment.steps import base_recipe, export_adapter
    from farss.processes import require_one_process

    require_one_process("farss export")
    named = getattr(arguments, "model.name")
    base = recipe_from(arguments, None if arguments.recipe else base_recipe(arguments.adapter, named)).model
    result = export_adapter(arguments.adapter, arguments.out, arguments.to, base, arguments.rank, dtype=arguments.dtype)
    if result["tolerance"] is None:
        allowed = f"after truncation to rank {result['rank']}: relative error {result['recompression_error']:.1e}"
    else:
        allowed = f"tolerance {result['tolerance']:.1e}"
    lines = [
        f"{result['form']} written to {result['path']}",
        f"checked: largest logit difference to the trained model {result['max_logit_difference']:.1e} ({allowed}; "
        f"{_share(result['share_of_change'])})",
    ]
    if result["lost"] is not None:
        lines.append(f"rounding the merged weights took {result['lost']:.1%} of what training changed of them")
    return emit(arguments, result, lines)


def _share(share: float | None) -> str:
    return "training changed none of these logits" if share is None else f"{share:.1e} of what training changed"
