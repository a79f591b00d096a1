"""`farss rows`: what farss understands of data, and which tokens of it are learned."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from farss.cli.options import ROWS, add_recipe_options, recipe_from
from farss.cli.output import emit

SUMMARY = "show rows as they are read and rendered, with the learned tokens marked"
EXAMPLE = "farss rows --data mine.jsonl --model smollm2-135m --rows 2"

LEARNED = ("⟦", "⟧")
"""What stands around learned tokens."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Data, the model whose tokenizer reads them, and how many rows are shown."""
    add_recipe_options(parser, ("--model", "--data", "--data-dir", *ROWS, "--train-rows", "--max-length"))
    parser.add_argument("--rows", type=int, metavar="N", default=3, help="how many rows are shown (default 3)")
    parser.add_argument("--test", action="store_true", help="show the held-out rows in place of those trained on")


def act(arguments: argparse.Namespace) -> int:
    """Print the rows and the counts."""
    from farss.experiment.showing import show_rows

    result = show_rows(recipe_from(arguments), arguments.rows, held_out=arguments.test)
    return emit(arguments, result, _lines(result))


def _lines(result: dict[str, Any]) -> Iterator[str]:
    for row in result["rows"]:
        of = f" of {row['set']}" if "sets" in result["counts"] else ""
        tokens = f"{row['learned_tokens']} of {row['tokens']} tokens learned"
        yield f"row {row['number']}{of}: read by {row['form']}; {tokens}"
        yield from (f"  {name}: {value!r}" for name, value in row["fields"].items())
        marked = "".join(_marked(part) for part in row["parts"])
        yield from (f"  | {line}" for line in marked.split("\n"))
        yield ""
    yield from _counts(result)


def _marked(part: dict[str, Any]) -> str:
    return f"{LEARNED[0]}{part['text']}{LEARNED[1]}" if part["learned"] else part["text"]


def _counts(result: dict[str, Any]) -> Iterator[str]:
    counts, settings = result["counts"], result["data"]
    for part in counts.get("sets", ()):
        yield f"{part['set']}: {part['read']} rows read, {part['used']} used, {part['held_out']} held out"
    use = "measured" if result["use"] == "held out" else "trained on"
    yield f"{counts['set']}: {counts['read']} rows read, template {result['template']}, turns {settings['turns']}"
    yield f"  {counts['used']} {use}, {counts['held_out']} held out"
    if counts["validation"]:
        yield f"  {counts['validation']} choose between trials"
    if counts["bad"]:
        yield f"  {counts['bad']} left out as bad, the first: {counts['first_bad']}"
    lengths = f"{counts['left_out']} left out and {counts['cut']} cut at {settings['max_length']} tokens"
    yield f"  of the first {result['counted']}: {lengths}"
    for name, number in counts["unused_fields"].items():
        yield f"  nothing reads `{name}` ({number} rows)"
    yield f"  {LEARNED[0]}learned{LEARNED[1]} tokens are marked"
