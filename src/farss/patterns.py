"""Regular expressions of others, tried in a process of their own that can be ended: some never come to an end.

PEFT matches the patterns of an adapter's configuration itself, with no limit of time. What is tried here first, on the
same names, is known to end.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence

from farss.errors import FarssError

SECONDS, PATIENCE = 0.5, 30.0
"""Computing time for all patterns and names together, of which ordinary ones take milliseconds; and how long is waited
for the process on a machine that is busy or does not limit computing time."""

_REPEATING = re.compile(r"[*+?{]")

_CHILD = """
import json, re, sys
asked = json.load(sys.stdin)
try:
    import resource, signal
    signal.setitimer(signal.ITIMER_PROF, asked["seconds"])  # its signal ends a process that does not ask for it
    resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))
except (ImportError, AttributeError, ValueError, OSError):
    pass  # this system has no such limit; the caller still ends this process
json.dump([[i for i, n in enumerate(asked["names"]) if re.fullmatch(p, n)] for p in asked["patterns"]], sys.stdout)
"""


def repeats(pattern: str) -> bool:
    """Whether a pattern may repeat a part of itself; one that does not is read from left to right once."""
    return _REPEATING.search(pattern) is not None


def check_valid(pattern: str, *, error: type[FarssError], where: object) -> None:
    """Check that a text is a regular expression.

    Raises:
        FarssError: as `error`, if it is none.
    """
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as raised:
        raise error("a pattern is not a regular expression", where=where, got=f"{pattern}: {raised}") from None


def full_matches(
    patterns: Sequence[str], names: Iterable[str], *, error: type[FarssError], where: object
) -> list[list[str]]:
    """For each pattern the names that it matches as a whole, in order.

    Args:
        patterns: regular expressions of Python.
        names: what they are tried on.
        error: class to raise.
        where: file or setting the patterns come from.

    Raises:
        FarssError: as `error`, if a pattern is not valid, or the patterns take longer than `SECONDS`.
    """
    names = list(names)
    for pattern in patterns:
        check_valid(pattern, error=error, where=where)
    if not any(map(repeats, patterns)):
        return [[name for name in names if re.fullmatch(pattern, name)] for pattern in patterns]
    found = _in_child(patterns, names)
    if found is None:
        raise error(
            "a pattern takes too long to be matched",
            where=where,
            expected=f"all of them within {SECONDS} s",
            got=", ".join(patterns),
            do="name the modules, or write the pattern without repetitions inside repetitions",
        )
    return [[names[i] for i in places] for places in found]


def _in_child(patterns: Sequence[str], names: list[str]) -> list[list[int]] | None:
    asked = json.dumps({"patterns": list(patterns), "names": names, "seconds": SECONDS})
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _CHILD], input=asked, capture_output=True, text=True, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        return None
    return json.loads(done.stdout) if done.returncode == 0 else None
