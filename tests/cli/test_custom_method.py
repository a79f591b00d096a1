"""The example of a method in a package of its own, by the command: listed, run, initialised."""

from __future__ import annotations

import importlib
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from farss.methods import plugins
from farss.report import validate

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom-method"


@pytest.fixture
def installed(tmp_path, monkeypatch) -> Iterator[None]:
    """The example as if it were installed: its module on the path, and its entry points beside it."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    info = tmp_path / "site" / "farss_mid-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = project["entry-points"][plugins.GROUP]
    lines = [f"[{plugins.GROUP}]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    for folder in (info.parent, EXAMPLE / "src"):
        monkeypatch.syspath_prepend(str(folder))
    forget()
    yield
    monkeypatch.undo()
    forget()


def forget() -> None:
    importlib.invalidate_caches()
    plugins.entry_points.cache_clear()
    plugins.load.cache_clear()


def test_the_example_is_listed_with_its_package(farss, installed):
    code, out, _ = farss("methods", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0 and rows["mid"]["package"] == "farss-mid 0.1.0" and rows["lora"]["package"] == "farss"
    assert rows["mid"]["needs"] == "curvature, spectrum"


def test_the_example_runs_in_the_processes_of_a_run(farss, workshop, installed, tmp_path):
    recipe = workshop.recipe("custom", methods=["mid"], **{"eval.knowledge_rows": 4})
    code, out, err = farss("run", recipe, "--out", tmp_path / "run", "--json")
    assert code == 0, err
    report = json.loads(out)
    validate(report)
    (run,) = report["runs"]
    assert run["method"] == "mid" and {t["rank"] for t in run["plan"]["targets"]} == {4}
    assert "mid" in (tmp_path / "run" / "report.html").read_text()


def test_without_its_package_the_method_is_unknown(farss, workshop):
    code, _, err = farss("run", workshop.recipe("custom", methods=["mid"]))
    assert code == 2 and "unknown method `mid`" in err
