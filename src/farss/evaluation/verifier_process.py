"""A process that compares answers with math-verify, run as a script: one JSON line in, one JSON line out.

A process of its own, because the package limits time by a signal, which only a main thread can receive, and because a
power tower such as 9^{9^{9^9}} can hang where no signal is looked at: then the process is killed from outside.
"""

from __future__ import annotations

import json
import sys

MOST_BYTES = 2**32
"""Address space the process may take; a huge number ends in a MemoryError, which the package counts as no match."""


def main() -> None:
    """Say which version answers, or why none does; then answer `[gold, answer, seconds]` with true or false."""
    _limit_memory()
    try:
        from importlib.metadata import version

        from math_verify import parse, verify
    except ImportError as error:
        _say({"error": str(error)})
        return
    _say({"version": version("math-verify")})
    for line in sys.stdin:
        gold, answer, seconds = json.loads(line)
        golds, answers = (parse(text, parsing_timeout=seconds) for text in (gold, answer))
        _say(bool(golds and answers) and verify(golds, answers, timeout_seconds=seconds))


def _say(reply: object) -> None:
    print(json.dumps(reply), flush=True)


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:
        return  # not a Unix: the time limit alone remains
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    least = MOST_BYTES if most == resource.RLIM_INFINITY else min(MOST_BYTES, most)
    resource.setrlimit(resource.RLIMIT_AS, (least, most))


if __name__ == "__main__":
    main()
