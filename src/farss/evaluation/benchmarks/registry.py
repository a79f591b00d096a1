"""The benchmarks by name: those of every module of this package, and what must be there before one is run."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from pathlib import Path

from farss.datasets.files import data_file
from farss.errors import ConfigError, DataError, did_you_mean
from farss.evaluation import benchmarks
from farss.evaluation.benchmarks import code
from farss.evaluation.benchmarks.base import Benchmark

NOT_BENCHMARKS = ("base", "registry")


def _collected() -> dict[str, Benchmark]:
    """What the `BENCHMARKS` of the modules hold; a module without it helps others."""
    names = [found.name for found in pkgutil.iter_modules(benchmarks.__path__) if found.name not in NOT_BENCHMARKS]
    modules = [importlib.import_module(f"{benchmarks.__name__}.{name}") for name in sorted(names)]
    return {benchmark.name: benchmark for module in modules for benchmark in getattr(module, "BENCHMARKS", ())}


BENCHMARKS: dict[str, Benchmark] = _collected()
"""What `--tasks` takes beside knowledge sets and training tasks."""

SANDBOXED = frozenset(benchmark.name for benchmark in code.BENCHMARKS)


def check_files(names: Sequence[str], data_dir: str | Path) -> None:
    """Check, before a model is loaded, that benchmarks are known and their files are there.

    Raises:
        ConfigError: if a benchmark is not known.
        DataError: if a file is missing; it is named.
    """
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        hint = did_you_mean(unknown[0], BENCHMARKS)
        raise ConfigError("a benchmark is not known", got=unknown[0], expected=" | ".join(BENCHMARKS), do=hint)
    for name in names:
        for stem in BENCHMARKS[name].files:
            file = data_file(data_dir, stem)
            if not file.is_file():
                raise DataError("the data of a benchmark are missing", where=name, expected=file)


def check_benchmarks(names: Sequence[str], data_dir: str | Path) -> None:
    """Check, before a model is loaded, everything that benchmarks need.

    Raises:
        ConfigError, DataError: as `check_files`.
        SandboxError: if one runs a model's code and this system cannot keep it in its place.
    """
    check_files(names, data_dir)
    if SANDBOXED.intersection(names):
        code.check_sandbox()
