"""The command line: `farss VERB`. It parses, calls the library, prints; it computes nothing."""

from farss.cli.main import main

__all__ = ["main"]
