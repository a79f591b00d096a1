"""A method of another package whose adapters have a form of their own: nothing in farss knows it."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from farss.errors import PlanError
from farss.methods import plugins
from farss.model.plan import Plan
from farss.storage import read_tensors

PACKAGE = '''
import torch
from torch import nn

from farss.adapters.forms import AdapterForm
from farss.adapters.shapes import Shape
from farss.adapters.sides import Side
from farss.methods.lora import Lora


class BoundedUp(Side):
    """B = b tanh(factor / b), whatever the factor."""

    implied = ()

    def __init__(self, factor, bound):
        super().__init__(factor)
        self.out_features, self.in_features = factor.shape
        self.bound = nn.Parameter(torch.full((1, 1), bound), requires_grad=False)

    def plain(self):
        bound = self.bound.detach()
        return bound * torch.tanh(self.trained / bound)

    def parts(self, weight, others):
        return dict(others)


class Bounded(Shape):
    marks = frozenset({"B.bound"})

    def sides(self, layer, adapter):
        return layer.lora_A[adapter], BoundedUp(layer.lora_B[adapter].weight.detach(), 0.25)


class Bounding(AdapterForm):
    name = "bounded"
    shapes = (Bounded,)

    def further_parameters(self, shape, rank):
        return 0

    def shape(self, plan, *, subtracts):
        return Bounded(plan.frozen)

    def begin_(self, model, plan, seed):
        for module in model.modules():
            if isinstance(module, BoundedUp):
                module.bound.data.fill_(0.01)


BOUNDED = Lora(name="bounded", summary="no entry of B beyond a bound", form=Bounding())
'''
BOUND = 0.01


def forget() -> None:
    importlib.invalidate_caches()
    plugins.entry_points.cache_clear()
    plugins.load.cache_clear()


@pytest.fixture
def installed(tmp_path, monkeypatch) -> Iterator[None]:
    """The package as if it were installed."""
    info = tmp_path / "site" / "farss_bounded-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: farss-bounded\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[{plugins.GROUP}]\nbounded = farss_bounded:BOUNDED\n")
    (info.parent / "farss_bounded.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(info.parent))
    forget()
    yield
    monkeypatch.undo()
    sys.modules.pop("farss_bounded", None)
    forget()


@pytest.fixture
def trained(farss, workshop, installed, tmp_path):
    """The folders of `farss init` and `farss train`."""
    recipe = workshop.recipe("bounded", **{"data.calibration_rows": 4})
    code, _, err = farss("init", "--recipe", recipe, "--method", "bounded", "--out", tmp_path / "init")
    assert code == 0, err
    steps = ("--max-steps", 8, "--lr", 0.01)
    code, _, err = farss("train", "--init", tmp_path / "init", *steps, "--out", tmp_path / "trained")
    assert code == 0, err
    return tmp_path / "trained"


def ups(tensors: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    return [tensor for name, tensor in tensors.items() if name.endswith("lora_B.weight")]


def test_it_is_made_held_saved_and_exported_as_it_says(farss, workshop, trained, tmp_path):
    assert Plan.load(tmp_path / "init" / "plan.json").initialisation == "bounded"
    saved = read_tensors(trained / "adapter" / "adapter_model.safetensors")[0]
    bounds = [tensor for name, tensor in saved.items() if "bound" in name]
    assert len(bounds) == len(ups(saved)) > 0 and all(float(bound) == pytest.approx(BOUND) for bound in bounds)
    largest = max(float(up.abs().max()) for up in ups(saved))
    assert 0.3 * BOUND < largest <= BOUND, "what is trained is bounded, and was moved"

    code, _, err = farss("export", "--adapter", trained / "adapter", "--to", "peft", "--out", tmp_path / "peft")
    assert code == 0, err
    plain = read_tensors(tmp_path / "peft" / "adapter_model.safetensors")[0]
    assert all(name.endswith(("lora_A.weight", "lora_B.weight")) for name in plain)
    base = AutoModelForCausalLM.from_pretrained(workshop.model)
    assert PeftModel.from_pretrained(base, tmp_path / "peft").active_adapter == "default"
    for one, other in zip(ups(plain), ups(saved), strict=True):
        torch.testing.assert_close(one, other, atol=1e-7, rtol=0)


def test_a_run_trains_and_reports_it(farss, workshop, installed, tmp_path):
    recipe = workshop.recipe("bounded", methods=["full", "bounded"])
    code, out, err = farss("run", recipe, "--out", tmp_path / "run", "--json")
    assert code == 0, err
    assert [run["method"] for run in json.loads(out)["runs"]] == ["full", "bounded"]


def test_without_its_package_its_plan_is_refused_by_name(trained, tmp_path, monkeypatch):
    plan = tmp_path / "init" / "plan.json"
    with monkeypatch.context() as patch:
        patch.setattr(plugins, "entry_points", dict)
        with pytest.raises(PlanError, match="install the package that the method came from"):
            Plan.load(plan).form  # noqa: B018  # asking is what is tested
