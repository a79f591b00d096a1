"""`farss methods`: what there is to choose from."""

from __future__ import annotations

import argparse

from farss.cli.output import emit_table

SUMMARY = "list the methods, one line each"
EXAMPLE = "farss methods"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments of its own."""


def act(arguments: argparse.Namespace) -> int:
    """Print every method with what it trains and what statistics it needs."""
    from farss.methods import all_methods, package_of_method

    methods = all_methods()
    foreign = any(package_of_method(name) for name in methods)
    rows = [
        {
            "name": method.name,
            "trains": method.trains,
            "needs": ", ".join(sorted(method.needs)) or "nothing",
            "summary": method.summary,
            **({"package": package_of_method(name) or "farss"} if foreign else {}),
        }
        for name, method in methods.items()
    ]
    return emit_table(arguments, rows)
