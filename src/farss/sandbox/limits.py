"""What a program in the sandbox may use, and how its run ended."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from farss.errors import ConfigError

Status = Literal["passed", "failed", "timeout", "memory", "killed", "output", "files"]

MEBIBYTE = 1 << 20
LEAST_MEMORY = 64 * MEBIBYTE
"""Below this the interpreter itself does not fit."""


@dataclass(frozen=True)
class Limits:
    """What one program may use.

    Attributes:
        cpu_seconds: of each of its processes.
        wall_seconds: of the program as a whole, from its first statement on, with the removal of its files.
        memory_bytes: address space of each of its processes.
        processes: processes and threads at a time, its own first one included.
        file_bytes: of each file it writes, and of all its files together.
        files: files and folders at a time.
        output_bytes: of standard output and standard error together.

    Raises:
        ConfigError: if a limit is not positive, or memory is less than the interpreter needs.
    """

    cpu_seconds: int = 10
    wall_seconds: float = 20.0
    memory_bytes: int = 512 * MEBIBYTE
    processes: int = 8
    file_bytes: int = 16 * MEBIBYTE
    files: int = 4096
    output_bytes: int = 64 * 1024

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value <= 0:
                raise ConfigError("a limit of the sandbox must be positive", where=name, got=value)
        if self.memory_bytes < LEAST_MEMORY:
            raise ConfigError(
                "the interpreter does not fit into the memory limit",
                where="memory_bytes",
                expected=f"at least {LEAST_MEMORY}",
                got=self.memory_bytes,
            )


@dataclass(frozen=True)
class Outcome:
    """How a program's run ended.

    Attributes:
        status: "passed": it ran to its last statement (`sys.exit(0)` before that is "failed"). "failed": an exception,
            or it left early. "timeout": the limit on CPU or wall time. "memory": a MemoryError that it did not catch.
            "output": it wrote more than it may. "files": it made more of them, or larger ones, than it may, and no
            namespace was there to refuse. "killed": any other signal.
        exit_code: of its first process, a signal's number negative; None if it was stopped at a limit.
        stdout: the beginning of its standard output, as far as the output limit reaches.
        stderr: the end of its standard error.
        seconds: wall time from its first statement on, with the removal of its files.
        unjudged: why the tests could not judge it, which is no pass; None where they did.
    """

    status: Status
    exit_code: int | None
    stdout: str
    stderr: str
    seconds: float
    unjudged: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the program ran to its last statement."""
        return self.status == "passed"
