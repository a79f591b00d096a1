"""The `math-verify` rule: answers compared as mathematics, from any thread, in bounded time."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from farss.errors import ConfigError, ResourceError
from farss.evaluation.equality import is_prose, prepared, read_equal
from farss.evaluation.mathematics import answer_part, as_formula

START_SECONDS = 300.0
"""Time for the process to import the package, on a busy machine; it takes seconds on an idle one."""
SECONDS_PER_STEP = 10
"""Time the package gives itself for each of reading the reference, reading the answer, and one comparison."""
SECONDS_PER_ANSWER = 30.0
"""Time after which the process is killed; the answer then does not match."""

_SCRIPT = Path(__file__).with_name("verifier_process.py")


class MathVerify:
    """Compares answers with the package math-verify in a process of its own; to be used in a `with` block.

    Attributes:
        version: of the package.
        timeouts: comparisons given up so far, for their time or for the memory they took.
    """

    def __init__(self, *, seconds: float = SECONDS_PER_ANSWER) -> None:
        """Start the process.

        Args:
            seconds: a comparison that takes longer is given up and counts as no match.

        Raises:
            ConfigError: if the package is not installed or cannot be imported.
            ResourceError: if the process does not start.
        """
        self.timeouts = 0
        self._seconds = seconds
        self._lock = threading.Lock()
        self.version = self._start()

    def __enter__(self) -> MathVerify:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def right(self, text: str, gold: str) -> bool:
        r"""Whether the final answer of a response equals the reference.

        Args:
            text: a response; `answer_part` says where its answer is looked for.
            gold: the reference answer itself, LaTeX or plain, without `\boxed`.
        """
        part, found = answer_part(text)
        return self.equal(part, gold) if found else self._ask(as_formula(gold), part)

    def equal(self, answer: str, gold: str) -> bool:
        """Whether an answer, given by itself, equals the reference; not symmetric, as the package is not.

        What a reader sees without computing (numbers, units, words) is decided by `equality`, the rest by the package.
        """
        read = read_equal(answer, gold)
        if read is not None:
            return read
        pair = prepared(answer, gold)
        if pair is None:
            return False
        return self._ask(as_formula(pair[1]), pair[0] if is_prose(pair[0]) else as_formula(pair[0]))

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):  # a question that was never read is still in the buffer
                    stream.close()

    def _start(self) -> str:
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # the package logs every answer it cannot read
            encoding="utf-8",
        )
        self._replies: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=_pass_on, args=(self._process.stdout, self._replies), daemon=True)
        self._reader.start()
        first = self._reply(START_SECONDS)
        if first is None:
            self.close()
            raise ResourceError("the process that compares answers did not start", got=self._process.returncode)
        if "error" in first:
            self.close()
            raise ConfigError(
                "comparing answers as mathematics needs the package math-verify",
                got=first["error"],
                do='pip install "farss[eval]"',
            )
        return first["version"]

    def _ask(self, gold: str, answer: str) -> bool:
        with self._lock:
            question = json.dumps([gold, answer, SECONDS_PER_STEP]) + "\n"
            try:
                self._hand_over(question)
            except BrokenPipeError:  # ended by somebody else since the last answer
                self.close()
                self._start()
                self._hand_over(question)
            reply = self._reply(self._seconds)
            if reply is None:  # too slow, or killed for its memory
                self.timeouts += 1
                self.close()
                self._start()
            return reply is True

    def _hand_over(self, question: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(question)
        self._process.stdin.flush()

    def _reply(self, seconds: float) -> Any:
        """What the process says next; None if it says nothing in time, or has ended."""
        try:
            line = self._replies.get(timeout=seconds)
        except queue.Empty:
            return None
        return json.loads(line) if line else None


def _pass_on(stream: Any, replies: queue.SimpleQueue[str]) -> None:
    """Put every line into the queue, and "" at the end of the stream."""
    for line in stream:
        replies.put(line)
    replies.put("")
