"""`farss tasks`: data sets farss knows how to ask and score."""

from __future__ import annotations

import argparse

from farss.cli.output import emit_table

SUMMARY = "list the knowledge sets and tasks, one line each"
EXAMPLE = "farss tasks --json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments of its own."""


def act(arguments: argparse.Namespace) -> int:
    """Print every data set with its kind."""
    from farss.datasets import describe

    return emit_table(arguments, describe())
