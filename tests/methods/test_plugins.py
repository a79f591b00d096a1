"""Methods of other packages: found, loaded only when asked for, refused with the package's name."""

from __future__ import annotations

import importlib
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from farss.config import FarssConfig, Recipe
from farss.errors import ConfigError
from farss.experiment.initialisation.budget import plan_for
from farss.experiment.jobs import Job
from farss.experiment.runs.keys import Keys
from farss.maths.spectrum import decompose
from farss.methods import METHODS, Evidence, all_methods, get_method, package_of_method, plugins
from farss.model.targets import find_targets, weight_matrix

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom-method"
GOOD = """
from farss.methods import SpectralMethod
METHOD = SpectralMethod(name="{}", summary="one of another package", score="sigma", shallow="low", deep="high")
"""
BARE = """
class M:
    name, summary, needs, trains, plan = "theirs", "", {}, "{}", print
METHOD = M()
"""


@pytest.fixture
def package(tmp_path, monkeypatch) -> Callable[..., None]:
    """Put a package with a method on the path, as an installer would: module, metadata, entry point."""

    def put(name: str, method: str, source: str, version: str = "1.0") -> None:
        folder, module = tmp_path / name, name.replace("-", "_")
        info = folder / f"{module}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[{plugins.GROUP}]\n{method} = {module}:METHOD\n")
        (folder / f"{module}.py").write_text(source)
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(sys.modules, module, raising=False)
        forget()

    forget()
    yield put
    monkeypatch.undo()
    forget()


def forget() -> None:
    importlib.invalidate_caches()
    plugins.entry_points.cache_clear()
    plugins.load.cache_clear()


def test_a_method_of_another_package_is_found_by_its_name(package):
    package("their-method", "theirs", GOOD.format("theirs"))
    assert get_method("theirs").summary == "one of another package"
    assert list(all_methods()) == [*METHODS, "theirs"]
    assert package_of_method("theirs") == "their-method 1.0" and package_of_method("farss") is None


def test_nothing_is_imported_before_it_is_asked_for(package):
    package("their-method", "theirs", "raise RuntimeError('imported')")
    assert get_method("lora") is METHODS["lora"]
    assert "their_method" not in sys.modules
    with pytest.raises(ConfigError, match=r"unknown method `their`(.|\n)*did you mean `theirs`"):
        get_method("their")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        ("raise RuntimeError('out of order')", "RuntimeError: out of order"),
        ("def broken(:", "SyntaxError"),
        ("OTHER = 1", "no attribute 'METHOD'"),
        ("from farss.errors import PlanError\nraise PlanError('no plan')", "PlanError: no plan"),
        ("METHOD = 3", "no `name`"),
        ("class METHOD: pass", "the class METHOD itself"),
        (GOOD.format("other"), "its name is 'other'"),
        (GOOD.format("theirs") + "object.__setattr__(METHOD, 'summary', None)", "`summary` is no text"),
        (BARE.format("{'spectrum'}", "adapter"), "`needs` is {'spectrum'}"),
        (BARE.format("frozenset({'luck'})", "adapter"), "`needs` is frozenset({'luck'})"),
        (BARE.format("frozenset()", "all"), "it trains 'all', neither adapter nor weights"),
    ],
)
def test_a_broken_package_is_named(package, source, said):
    package("their-method", "theirs", source)
    with pytest.raises(ConfigError) as caught:
        get_method("theirs")
    assert "their-method 1.0" in str(caught.value) and said in str(caught.value)
    assert "their_method:METHOD" in str(caught.value)
    with pytest.raises(ConfigError, match="their-method"):
        all_methods()
    assert get_method("farss") is METHODS["farss"]


def test_a_name_that_cannot_be_a_folder_is_refused(package):
    package("their-method", "the/irs", GOOD.format("the/irs"))
    with pytest.raises(ConfigError, match="small letters, digits"):
        get_method("the/irs")


def test_a_name_that_farss_has_is_refused(package):
    package("their-method", "lora", GOOD.format("lora"))
    with pytest.raises(
        ConfigError, match=r"more than one package has a method `lora`(.|\n)*farss itself, their-method 1.0"
    ):
        get_method("lora")
    assert get_method("pissa") is METHODS["pissa"]


def test_a_name_that_two_packages_have_is_refused(package):
    package("their-method", "theirs", GOOD.format("theirs"))
    package("our-method", "theirs", GOOD.format("theirs"), version="2.5")
    with pytest.raises(ConfigError) as caught:
        get_method("theirs")
    assert "their-method 1.0" in str(caught.value) and "our-method 2.5" in str(caught.value)


def test_another_version_of_the_package_trains_anew(package, tmp_path):
    package("their-method", "theirs", GOOD.format("theirs"))
    recipe = Recipe(methods=("lora", "theirs"))
    keys = []
    for version in ("1.0", "1.0", "1.1"):
        (metadata,) = tmp_path.rglob("METADATA")
        metadata.write_text(f"Metadata-Version: 2.1\nName: their-method\nVersion: {version}\n")
        forget()
        keys.append(Keys(recipe).training(Job("theirs", 1e-4, 0)))
    assert keys[0] == keys[1] != keys[2]
    assert Keys(recipe).training(Job("lora", 1e-4, 0)) == Keys(Recipe()).training(Job("lora", 1e-4, 0))


@pytest.fixture
def example(tmp_path, monkeypatch) -> None:
    """The example package on the path, with the entry points its pyproject.toml declares."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    info = tmp_path / "farss_mid-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = project["entry-points"][plugins.GROUP]
    (info / "entry_points.txt").write_text(
        f"[{plugins.GROUP}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
    )
    for folder in (tmp_path, EXAMPLE / "src"):
        monkeypatch.syspath_prepend(str(folder))
    forget()
    yield
    monkeypatch.undo()
    forget()


class Curvature:
    """Random second moments on the smaller side of every weight."""

    def pair(self, name: str, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(len(name))
        rows = [torch.randn(50, min(weight.shape), generator=generator).double() for _ in range(2)]
        return rows[0].T @ rows[0] / 50, rows[1].T @ rows[1] / 50


def test_the_example_takes_the_middle_of_the_scores(example):
    torch.manual_seed(0)
    targets = find_targets(nn.ModuleDict({"layers": nn.ModuleList([nn.ModuleDict({"a": nn.Linear(24, 20)})])}))
    evidence = Evidence("abc", lambda target: decompose(weight_matrix(target)), {"curvature": Curvature()})
    method = get_method("mid")
    plan = method.plan(targets, evidence, FarssConfig(rank=4))
    order = np.argsort(evidence.scores(targets[0]).log_s.numpy())
    assert set(plan.targets[0].indices) == set(order[8:12].tolist())
    assert package_of_method("mid") == "farss-mid 0.1.0"
    doubled = plan_for(method, targets, evidence, FarssConfig(rank=4), 8 * 44)
    assert doubled.targets[0].rank == 8
