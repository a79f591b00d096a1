"""Dispatch of `farss VERB` and the exit codes: 0 done, 1 failed, 2 the request was wrong, 3 a gate was not met."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import sys
import warnings

from farss import __version__
from farss.cli.words import check_words
from farss.errors import FarssError
from farss.printable import escape_from_here, escaping, plain_notes
from farss.storage.disk import full_disk

VERBS = (
    "demo",
    "run",
    "inspect",
    "rows",
    "init",
    "merge-stats",
    "train",
    "export",
    "eval",
    "audit",
    "glue",
    "compare",
    "methods",
    "tasks",
    "models",
)
INTERRUPTED = 130


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs; each verb's module adds its own arguments and names its function."""
    parser = argparse.ArgumentParser(
        prog="farss", description="Fine-tune language models without making them forget, and show what was kept."
    )
    parser.add_argument("--version", action="version", version=f"farss {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name in VERBS:
        module = importlib.import_module(f"farss.cli.verbs.{name.replace('-', '_')}")
        verb = verbs.add_parser(
            name,
            help=module.SUMMARY,
            description=module.SUMMARY,
            epilog=f"example:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(verb)
        verb.add_argument("--json", action="store_true", help="print the result as JSON on standard output")
        verb.add_argument("--debug", action="store_true", help="show the traceback of an error")
        verb.set_defaults(act=module.act)
    return parser


def program() -> None:
    """The `farss` program: run and exit."""
    escape_from_here()
    sys.exit(main())


def main(argv: list[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        The exit code.
    """
    with escaping():
        arguments = build_parser().parse_args(argv)
        _quieten_libraries()
        return _act(arguments)


def _act(arguments: argparse.Namespace) -> int:
    try:
        check_words(arguments)
        return arguments.act(arguments)
    except (FarssError, OSError, RuntimeError) as error:
        known = error if isinstance(error, FarssError) else full_disk(error, getattr(arguments, "out", None) or ".")
        if known is None or arguments.debug:
            raise
        return _say(arguments.verb, known)
    except KeyboardInterrupt:
        print("\ninterrupted; run the same command to go on from what is finished", file=sys.stderr)
        return INTERRUPTED


def _say(verb: str, error: FarssError) -> int:
    """Print an error, and on standard output what was measured and could not be written; return the exit code."""
    measured = getattr(error, "result", None)
    if measured is not None:
        print(json.dumps(measured, indent=1, default=str))
        print("what was measured stands on standard output, for it could not be written:", file=sys.stderr)
    print(f"farss {verb}: {error}", file=sys.stderr)
    return error.exit_code


def _quieten_libraries() -> None:
    # Progress bars and advice of the libraries below would drown our own lines; errors still come through.
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning")  # for the processes of the stages
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    plain_notes()
