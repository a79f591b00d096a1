"""The scripts of `benchmarks/`: as modules, and as programs."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="session")
def scripts() -> Path:
    """The folder of the benchmarks."""
    return SCRIPTS


@pytest.fixture(scope="session")
def benchmark_module() -> Callable[[str], ModuleType]:
    """Name of a script -> its module."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"benchmark_{name}", SCRIPTS / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(SCRIPTS)  # as when it runs, a script finds those beside it
            spec.loader.exec_module(module)
        return module

    return load
