"""A program and its tests, each in a sandbox of its own: the tests call the program, which never sees them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

from farss.sandbox.inside.examiner import ENDED, UNJUDGED
from farss.sandbox.limits import Limits, Outcome
from farss.sandbox.process import START_SECONDS, STDERR_CHARACTERS, Arrangement, play

OWN_FAULTS = ("timeout", "memory", "killed", "output", "files")
"""Ways for a program to end that say more than that its tests failed."""


@dataclass(frozen=True)
class Examination:
    """Tests of a program.

    Attributes:
        tests: statements that raise an exception unless the program is right.
        names: what they use of the program: its functions and classes.
        preamble: statements before, for what they use besides; a name in `names` is the program's all the same.
    """

    tests: str
    names: tuple[str, ...]
    preamble: str = ""


def examine_in(arrangement: Arrangement, source: str, examination: Examination, limits: Limits) -> Outcome:
    """Run a program and its tests, whatever the arrangement protects from.

    Args:
        arrangement: how both sandboxes are built.
        source: the program; it is not run as the main module.
        examination: its tests.
        limits: what the program may use; the tests may use as much, and wait for it.

    Returns:
        "passed" if the tests ran to their last statement, which only their own process says. Output and seconds are the
        program's; its standard error is followed by that of the tests.

    Raises:
        SandboxError: if a sandbox could not be set up, or something in it survived its end.
    """
    questions, answers = os.pipe(), os.pipe()
    patient = replace(limits, wall_seconds=limits.wall_seconds + START_SECONDS)
    solution = {"role": "solution", "source": source}
    examiner = {"role": "examiner", **asdict(examination)}
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(play, arrangement, solution, limits, (questions[0], answers[1]))
        second = pool.submit(play, arrangement, examiner, patient, (answers[0], questions[1]))
    return _verdict(first.result(), second.result())


def _verdict(program: Outcome, tests: Outcome) -> Outcome:
    if tests.passed:
        return replace(program, status="passed", exit_code=0)
    status = "failed"
    if program.status in OWN_FAULTS:
        status = program.status
    elif tests.status in ("timeout", "memory"):
        status = tests.status
    unjudged = tests.stderr.strip() if tests.exit_code == UNJUDGED else None
    said = "" if tests.exit_code == ENDED else tests.stderr
    return replace(
        program,
        status=status,
        exit_code=program.exit_code or tests.exit_code,
        stderr=(program.stderr + said)[-STDERR_CHARACTERS:],
        unjudged=unjudged,
    )
