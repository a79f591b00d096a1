"""Progress of long work: a bar with an ETA on a terminal, one plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from farss.amounts import duration

SECONDS_BETWEEN_LINES = 15.0
_bars_shown = True


def show_bars(shown: bool) -> None:
    """Whether this process may draw bars on a terminal: several processes would draw over each other."""
    global _bars_shown
    _bars_shown = shown


class ProgressLine:
    """One piece of long work with a title; use as a context manager and call it with (done, total, note).

    Args:
        title: what is being done, shown at the start of the line.
        stream: where lines go; standard error by default, so that `--json` output stays clean.
        quiet: print nothing at all.
    """

    def __init__(self, title: str, stream: TextIO | None = None, quiet: bool = False) -> None:
        self.title, self.quiet = title, quiet
        self.stream = stream if stream is not None else sys.stderr
        self.started = self.last_line = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self.started = self.last_line = time.monotonic()
        if _bars_shown and not self.quiet and self.stream.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}% {task.fields[note]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(file=self.stream),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=None, note="")
        return self

    def __call__(self, done: float, total: float, note: str = "") -> None:
        """Show that `done` of `total` is finished."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, note=note)
            return
        now = time.monotonic()
        if self.quiet or now - self.last_line < SECONDS_BETWEEN_LINES or not 0 < done < total:
            return
        self.last_line = now
        remaining = (now - self.started) * (total - done) / done
        print(
            f"  {self.title}: {100 * done / total:.0f} %, about {duration(remaining)} left {note}".rstrip(),
            file=self.stream,
            flush=True,
        )

    def __exit__(self, kind: object, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        if not self.quiet:
            mark = "failed" if kind else "done"
            elapsed = duration(time.monotonic() - self.started)
            print(f"{self.title}: {mark} in {elapsed}", file=self.stream, flush=True)
