"""Programs from a model's output, run in sandboxes: one, or many side by side."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from farss.errors import ConfigError
from farss.sandbox.examination import Examination, examine_in
from farss.sandbox.limits import Limits, Outcome
from farss.sandbox.process import run_in
from farss.sandbox.protections import MINIMUM, Guarantee, Protections, probe, require


def run_program(
    source: str,
    limits: Limits | None = None,
    *,
    protections: Protections | None = None,
    minimum: tuple[Guarantee, ...] = MINIMUM,
) -> Outcome:
    """Run one Python program in a sandbox of its own; only the standard library is there for it.

    Args:
        source: the program's text.
        limits: what it may use; None for the defaults.
        protections: from `probe`; None probes this system (once).
        minimum: what must hold; anything less than the default runs foreign code with a known hole.

    Raises:
        SandboxError: if something in `minimum` does not hold, the sandbox cannot be set up, or a process outlives it.
    """
    protections = probe() if protections is None else protections
    require(protections, minimum)
    return run_in(protections.arrangement, source, limits or Limits())


def run_programs(
    sources: Sequence[str],
    limits: Limits | None = None,
    workers: int = 1,
    *,
    protections: Protections | None = None,
    minimum: tuple[Guarantee, ...] = MINIMUM,
    announce: Callable[[str], object] | None = None,
    progress: Callable[[int, int], None] | None = None,
    examinations: Sequence[Examination] | None = None,
) -> list[Outcome]:
    """Run many programs, each in a sandbox of its own; otherwise as `run_program`.

    Args:
        sources: the programs' texts.
        limits: what each may use; None for the defaults.
        workers: how many run at a time.
        protections: from `probe`; None probes this system (once).
        minimum: what must hold.
        announce: called once, before the first program, with the protections in words; None prints to standard error.
        progress: called with (programs done, programs in all).
        examinations: the tests of each program, run in a sandbox of their own; None: each is a program by itself.

    Returns:
        The outcomes, in order.

    Raises:
        ConfigError: if there is no worker.
        SandboxError: as `run_program`; programs under way are finished first.
    """
    if workers < 1:
        raise ConfigError("at least one worker is needed", where="workers", got=workers)
    protections = probe() if protections is None else protections
    require(protections, minimum)
    (announce or _print)(str(protections))
    outcomes: list[Outcome] = []
    how, most = protections.arrangement, limits or Limits()
    with ThreadPoolExecutor(workers) as pool:
        futures = [
            pool.submit(run_in, how, source, most)
            if examination is None
            else pool.submit(examine_in, how, source, examination, most)
            for source, examination in zip(sources, examinations or [None] * len(sources), strict=True)
        ]
        try:
            for future in futures:
                outcomes.append(future.result())
                if progress is not None:
                    progress(len(outcomes), len(sources))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # nothing new begins after a failure
    return outcomes


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
