"""Stages of a run: each in its own process and folder, marked done by a key, so that a run resumes where it stopped.

A child process gives back all its memory when it ends, which the allocator of a long-lived process would not, and a
stage killed at any moment leaves its folder unmarked, so that it is done again.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from farss.errors import FarssError, StorageError, UnwrittenError
from farss.experiment import progress
from farss.experiment.workers import WHOLE, Share
from farss.printable import escape_from_here, plain_notes
from farss.reading import TEXT, Document, object_of, unless_damaged
from farss.storage import write_json
from farss.storage.disk import full_disk
from farss.storage.owned import check_clear, check_own, clear, seal, take

DONE, STARTED = "done.json", "started.json"
NOTE = Document("account of a stage", StorageError)
STAGE = "run, a stage"
"""By whom the folder of a stage is marked as made."""
LEFT = (
    *(STARTED, DONE, "plan.json", "plan.safetensors", "*.jsonl.gz", "adapter", "peft", "model", "checkpoints"),
    *("stats.safetensors", "partial.safetensors", "*.json", "*.safetensors"),
)
"""What a stage under way may leave; of one that is done every file is listed."""
START_METHOD = "forkserver" if sys.platform == "linux" else "spawn"
"""How a stage's process is made. A plain fork of a process that has computed with several threads never finishes its
first parallel region, and one that has used a GPU cannot use it again; the server has only imported the libraries."""
PRELOADED = ["farss.experiment.runs.work", "farss.experiment.runs.training", "farss.experiment.measuring"]

ORPHANED = 131
"""Exit code of a stage whose parent died: nobody would mark its folder, and the next run must have it for itself."""


def stage_key(*parts: object) -> str:
    """A hash of everything a stage depends on; settings that do not change its result stay out of it."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def finished(folder: Path, key: str) -> dict[str, Any] | None:
    """What the stage left when it was done with this key, or None if it has to be done."""
    content = _noted(folder / DONE)
    return content if content is not None and content["key"] == key else None


def check_stage(folder: Path, key: str) -> None:
    """Make sure that a stage that has to be done can be done in its folder: all that stands there is of a stage.

    Raises:
        OutputError: naming what is not; nothing was touched.
    """
    if finished(folder, key) is None:
        check_own(folder, STAGE)
        if folder.is_dir():
            check_clear(folder)


def run_stage(folder: Path, key: str, work: Callable[[Path], dict[str, Any]], share: Share = WHOLE) -> dict[str, Any]:
    """Do `work(folder)` in a child process unless it is done already; return what it left.

    Args:
        folder: the stage's own folder; an outdated one (another key) is emptied first, an interrupted one is kept so
            that the work can go on from its own checkpoints.
        key: from `stage_key`.
        work: receives the folder and returns a JSON-ready dictionary; it and its arguments are pickled.
        share: what the child may use of the machine; whether that is all of it is kept too, for what is timed.

    Raises:
        OutputError: if something in the folder was not written by a stage; it is left as it is.
        FarssError: what the child raised, or that it was killed.
    """
    done = finished(folder, key)
    if done is not None:
        return done
    check_stage(folder, key)
    if _begun_with(folder) != key:
        clear(folder)
    take(folder, STAGE, writing=LEFT)
    write_json(folder / STARTED, {"key": key})
    content = {**_in_child(work, folder, share), "key": key, "alone": share.whole}
    write_json(folder / DONE, content)
    seal(folder, STAGE)
    return content


def _begun_with(folder: Path) -> str | None:
    """The key of the stage that was begun in a folder; None where none was."""
    content = _noted(folder / STARTED)
    return None if content is None else content["key"]


def _noted(file: Path) -> dict[str, Any] | None:
    """What a stage noted; None where it is not there, or damaged."""
    if not file.is_file():
        return None
    return unless_damaged(lambda: NOTE.read_as(file, object_of(key=TEXT)), "the stage is done again")


def _in_child(work: Callable[[Path], dict[str, Any]], folder: Path, share: Share) -> dict[str, Any]:
    context = multiprocessing.get_context(START_METHOD)
    if START_METHOD == "forkserver":
        context.set_forkserver_preload(PRELOADED)
    receiver, sender = context.Pipe()
    process = context.Process(target=_child, args=(work, folder, sender, dict(os.environ), share))
    process.start()
    sender.close()
    try:
        outcome = receiver.recv()
    except EOFError:
        process.join()
        raise _ended_early(folder, process.exitcode) from None
    except KeyboardInterrupt:
        process.terminate()
        raise
    process.join()
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _ended_early(folder: Path, code: int | None) -> FarssError:
    if code is not None and code < 0:  # by a signal
        return FarssError(
            "a stage was killed before it finished",
            where=folder,
            got=f"signal {-code}",
            do="if memory ran out, lower train.micro_batch_size or data.max_length; run the same command to resume",
        )
    return FarssError(
        "a stage ended with an unexpected error",
        where=folder,
        got=f"exit code {code}; its traceback stands above",
        do="please report it; the same command goes on from what is finished",
    )


def _child(
    work: Callable[[Path], dict[str, Any]], folder: Path, sender: Connection, environment: dict[str, str], share: Share
) -> None:
    threading.Thread(target=_end_with_parent, args=(sender,), daemon=True).start()
    escape_from_here()
    os.environ.update(environment)  # the server keeps the environment of its own start
    plain_notes()
    share.take()
    if not share.whole:
        progress.show_bars(False)
    try:
        sender.send(work(folder))
    except FarssError as error:
        sender.send(_Failure.of(error))
    except (OSError, RuntimeError, SafetensorError) as error:
        if (full := full_disk(error, folder)) is None:
            raise
        sender.send(_Failure.of(full))
    except KeyboardInterrupt:
        sys.exit(130)


def _end_with_parent(connection: Connection) -> None:
    """Wait for the other end to close, which only the parent's death does, and end this process at once."""
    try:
        connection.recv()
    except (EOFError, OSError):
        os._exit(ORPHANED)


class _Failure(FarssError):
    """A FarssError that survives the pipe: its message as it was, its exit code kept, and what was measured."""

    result: Any = None

    @classmethod
    def of(cls, error: FarssError) -> _Failure:
        return _rebuild(str(error), error.exit_code, error.result if isinstance(error, UnwrittenError) else None)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (str(self), self.exit_code, self.result)


def _rebuild(message: str, exit_code: int, result: Any) -> _Failure:
    failure = _Failure(message)
    failure.exit_code, failure.result = exit_code, result
    return failure
