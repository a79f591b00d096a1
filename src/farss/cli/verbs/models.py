"""`farss models`: models with a short name."""

from __future__ import annotations

import argparse

from farss.cli.output import emit_table

SUMMARY = "list the models that have a short name; any folder or hub id works as well"
EXAMPLE = "farss models"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments of its own."""


def act(arguments: argparse.Namespace) -> int:
    """Print every known model and whether its package is installed."""
    from farss.model.sources import available_models

    return emit_table(arguments, available_models())
