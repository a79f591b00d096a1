"""`farss merge-stats`: the statistics of several shards, added up."""

from __future__ import annotations

import argparse

from farss.cli.output import emit

SUMMARY = "add up the statistics that `farss init --shard` took in separate processes"
EXAMPLE = "farss merge-stats shard1/ shard2/ --out stats.safetensors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The parts and where their sum goes."""
    parser.add_argument("parts", metavar="PART", nargs="+", help="statistics file, or a folder of `farss init --shard`")
    parser.add_argument(
        "--out", metavar="PATH", required=True, help="the file to write; a folder where parts hold several statistics"
    )


def act(arguments: argparse.Namespace) -> int:
    """Merge and say what is in the sum."""
    from farss.experiment.initialisation.statistics import merge_statistics

    origins = merge_statistics(arguments.parts, arguments.out)
    origin = origins[0]
    shards = [f"{number}/{origin.count}" for number in origin.shards]
    left = "whole" if origin.complete else f"{origin.count - len(shards)} shards are still missing"
    names = [one.statistic for one in origins]
    result = {"statistics": arguments.out, "names": names, "shards": shards, "complete": origin.complete}
    lines = [f"{', '.join(names)}: {len(shards)} of {origin.count} shards: {left}", f"statistics: {arguments.out}"]
    return emit(arguments, result, lines)
