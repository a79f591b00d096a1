"""The benchmarks by name: those of every module of this package and of other packages, and what must be there first."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from farss.datasets.files import data_file
from farss.errors import ConfigError, DataError, did_you_mean
from farss.evaluation import benchmarks
from farss.evaluation.benchmarks.base import Benchmark
from farss.plugins import FILE_NAME, NAME_RULE, Entries, Group

GROUP = "farss.benchmarks"
"""The group of entry points: name of the benchmark = module:object."""

NOT_BENCHMARKS = ("base", "registry")


@functools.cache
def own() -> dict[str, Benchmark]:
    """The benchmarks of farss: what the `BENCHMARKS` of this package's modules hold."""
    names = [found.name for found in pkgutil.iter_modules(benchmarks.__path__) if found.name not in NOT_BENCHMARKS]
    modules = [importlib.import_module(f"{benchmarks.__name__}.{name}") for name in sorted(names)]
    return {benchmark.name: benchmark for module in modules for benchmark in getattr(module, "BENCHMARKS", ())}


@functools.cache
def entry_points() -> Entries:
    """Those of installed packages by name, none of them loaded; read once per process."""
    return _group().entries()


def benchmark_names() -> list[str]:
    """What `--tasks` takes beside knowledge sets and training tasks; no package is loaded for it."""
    return list(dict.fromkeys([*own(), *sorted(entry_points())]))


def get_benchmark(name: str) -> Benchmark:
    """The benchmark of this name.

    Raises:
        ConfigError: if there is none, more than one package has it, or its package cannot be loaded.
    """
    _group().check_name(name, entry_points(), builtin=name in own())
    if name in own():
        return own()[name]
    if name in entry_points():
        return _loaded(name)
    known = benchmark_names()
    raise ConfigError("a benchmark is not known", got=name, expected=" | ".join(known), do=did_you_mean(name, known))


@functools.cache
def _loaded(name: str) -> Benchmark:
    (entry,) = entry_points()[name]
    return cast(Benchmark, _group().load(name, entry))


def _group() -> Group:
    return Group(GROUP, "benchmark", "a farss.evaluation.benchmarks.base.Benchmark of this name", _mistakes)


def _mistakes(found: Any, name: str) -> list[str]:
    """What keeps an object from being a benchmark of this name."""
    if not isinstance(found, Benchmark):
        return [f"an object of {type(found).__name__}"]
    mistakes = [] if found.name == name else [f"its name is {found.name!r}"]
    return mistakes if FILE_NAME.fullmatch(name) else [*mistakes, NAME_RULE]


def check_files(names: Sequence[str], data_dir: str | Path) -> None:
    """Check, before a model is loaded, that benchmarks are known and their files are there.

    Raises:
        ConfigError: if a benchmark is not known.
        DataError: if a file is missing; it is named.
    """
    for name, benchmark in [(name, get_benchmark(name)) for name in names]:
        for stem in benchmark.files:
            file = data_file(data_dir, stem)
            if not file.is_file():
                raise DataError("the data of a benchmark are missing", where=name, expected=file)


def check_benchmarks(names: Sequence[str], data_dir: str | Path) -> None:
    """Check, before a model is loaded, everything that benchmarks need.

    Raises:
        ConfigError, DataError: as `check_files`.
        FarssError: what a benchmark's own check raises; `SandboxError` if it runs a model's code and this system cannot
            keep it in its place.
    """
    check_files(names, data_dir)
    for check in dict.fromkeys(get_benchmark(name).check for name in names):
        if check is not None:
            check()
