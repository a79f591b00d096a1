"""A method of another package with settings and a training aid of its own: nothing in farss knows either of them."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator

import pytest
import torch

from farss.config import FarssConfig, Recipe
from farss.errors import ConfigError
from farss.experiment.jobs import Job
from farss.experiment.runs.keys import Keys
from farss.methods import get_method, plugins
from farss.model.plan import Plan
from farss.report import validate
from farss.storage import read_tensors

PACKAGE = '''
import os
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import TrainerCallback

from farss.adapters.provenance import settings_of
from farss.errors import ConfigError
from farss.methods import MethodSettings, SpectralMethod
from farss.settings import require
from farss.training.aids import TrainingAid


@dataclass(frozen=True)
class PullSettings(MethodSettings):
    """How strongly adapters are pulled to zero, harder with every step."""

    group = "pull"
    strength: float = 0.0
    grows: Literal["yes", "no"] = "yes"

    def __post_init__(self):
        require(self.strength >= 0, "a pull cannot push", where="pull.strength", got=self.strength)


class Pull(TrainingAid, TrainerCallback):
    name = "pull"

    def __init__(self, model):
        super().__init__(model)
        self.settings = PullSettings.from_mapping(settings_of(model, "pull", "how strongly it is pulled"))
        self.seen = torch.zeros(())

    @classmethod
    def check_settings(cls, config):
        if config.packing:
            raise ConfigError("what is pulled cannot be packed", where="train.packing")

    def callbacks(self):
        return [self]

    def loss(self, at):
        learned = [p for p in self.model.parameters() if p.requires_grad]
        return self.settings.strength * (1 + self.seen) * sum(p.square().sum() for p in learned) / at.parts

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.seen += 1.0

    def on_step_end(self, args, state, control, **kwargs):
        if os.environ.get("PULL_DIES") and state.global_step == 3:
            raise KeyboardInterrupt

    def state(self):
        return {"seen": self.seen}

    def load_state(self, tensors):
        self.seen = tensors["seen"]

    def account(self):
        return {"pulled": float(self.seen)}


PULL = SpectralMethod(
    name="pull",
    summary="pulled to zero",
    score="sigma",
    shallow="high",
    deep="high",
    settings=(PullSettings,),
    aids=(Pull,),
)
'''


def forget() -> None:
    importlib.invalidate_caches()
    plugins.entry_points.cache_clear()
    plugins.load.cache_clear()


@pytest.fixture
def installed(tmp_path, monkeypatch) -> Iterator[None]:
    """The package as if it were installed."""
    info = tmp_path / "site" / "farss_pull-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: farss-pull\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[{plugins.GROUP}]\npull = farss_pull:PULL\n")
    (info.parent / "farss_pull.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(info.parent))
    forget()
    yield
    monkeypatch.undo()
    sys.modules.pop("farss_pull", None)
    forget()


def trained(farss, workshop, place, *said: str) -> dict[str, torch.Tensor]:
    """The adapter of `farss init` and `farss train` with these settings."""
    options = [part for one in said for part in ("--set", one)]
    recipe = workshop.recipe("pull", **{"data.calibration_rows": 4})
    code, _, err = farss("init", "--recipe", recipe, "--method", "pull", *options, "--out", place / "init")
    assert code == 0, err
    return gone_on(farss, place)


def gone_on(farss, place) -> dict[str, torch.Tensor]:
    """The adapter of `farss train`, from the start or from where it was."""
    often = ("--set", "train.save_steps=2", "--max-steps", 6)
    code, _, err = farss("train", "--init", place / "init", *often, "--out", place / "trained")
    assert code == 0, err
    return read_tensors(place / "trained" / "adapter" / "adapter_model.safetensors")[0]


def test_its_settings_are_set_recorded_and_effective(farss, workshop, installed, tmp_path):
    free, pulled = (
        trained(farss, workshop, tmp_path / str(strength), f"init.pull.strength={strength}") for strength in (0, 10)
    )
    assert any(not torch.equal(free[name], pulled[name]) for name in free)
    assert Plan.load(tmp_path / "10" / "init" / "plan.json").settings["pull"] == {"strength": 10.0, "grows": "yes"}
    account = json.loads((tmp_path / "10" / "trained" / "train.json").read_text())
    assert account["pulled"] == account["steps"] > 0


def test_it_goes_on_exactly_after_an_interruption(farss, workshop, installed, tmp_path, monkeypatch):
    whole = trained(farss, workshop, tmp_path / "whole", "init.pull.strength=1")
    with monkeypatch.context() as patch:
        patch.setenv("PULL_DIES", "1")
        with pytest.raises(AssertionError):
            trained(farss, workshop, tmp_path / "parts", "init.pull.strength=1")
    assert list((tmp_path / "parts" / "trained").glob("**/pull.safetensors"))
    again = gone_on(farss, tmp_path / "parts")
    assert all(torch.equal(again[name], whole[name]) for name in whole)


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ("init.pull.strenght=1", "did you mean `strength`"),
        ("init.pul.strength=1", "did you mean `pull`"),
        ("init.pull.grows=maybe", "not one of the named choices"),
        ("init.pull.strength=-1", "a pull cannot push"),
        ("init.pull.strength=fast", "wrong type"),
        ("train.packing=true", "what is pulled cannot be packed"),
    ],
)
def test_what_is_wrong_with_them_is_refused_before_a_run(farss, workshop, installed, tmp_path, said, what):
    recipe = workshop.recipe("pull", methods=["full", "pull"])
    code, _, err = farss("run", recipe, "--set", said, "--out", tmp_path / "run")
    assert code == 2 and what in err and not (tmp_path / "run" / "report.json").exists()


def test_without_its_package_its_settings_are_unknown(farss, workshop, tmp_path):
    code, _, err = farss("run", workshop.recipe("pull"), "--set", "init.pull.strength=1", "--out", tmp_path / "run")
    assert code == 2 and "unknown key `pull`" in err


def test_they_are_in_the_keys_of_its_own_jobs_only(installed):
    before = Recipe(methods=("full", "lora", "farss", "kasa", "pull"))
    after = before.override({"init.pull.strength": 1.0})
    for method in before.methods:
        keys = [Keys(recipe).training(Job(method, 1e-4, 0)) for recipe in (before, after)]
        assert (keys[0] == keys[1]) == (method != "pull")
    assert Keys(before).passes[0].keys == Keys(after).passes[0].keys


def test_a_recipe_names_them_where_they_are_set(installed):
    init = Recipe().override({"init.pull.strength": 1.0}).to_mapping()["init"]
    assert init.pop("pull") == {"strength": 1.0, "grows": "yes"} and init == Recipe().to_mapping()["init"]
    assert Recipe.from_mapping({"init": {"pull": {"strength": 0.0}}}) == Recipe()
    plans = [get_method(name).settings for name in ("pull", "kasa", "farss")]
    assert [[kind.group for kind in kinds] for kinds in plans] == [["pull"], ["kasa"], []]


def test_a_run_varies_them_and_reports_them(farss, workshop, installed, tmp_path):
    recipe = workshop.recipe(
        "pull", methods=["full", "pull"], vary={"pull": {"init": {"pull": {"strength": [0.0, 1.0]}}}}
    )
    code, out, err = farss("run", recipe, "--out", tmp_path / "run", "--json")
    assert code == 0, err
    report = json.loads(out)
    validate(report)
    assert len([run for run in report["runs"] if run["method"] == "pull"]) == 2
    plans = [Plan.load(path) for path in (tmp_path / "run" / "plans").glob("pull*.json")]
    assert sorted(plan.settings["pull"]["strength"] for plan in plans) == [0.0, 1.0]


@pytest.mark.parametrize(
    ("was", "then", "what"),
    [
        ('group = "pull"', 'group = "push"', "the group of PullSettings is not 'pull'"),
        ("strength: float = 0.0", "strength: float", "a setting of PullSettings has no default"),
        ("(MethodSettings)", "", "PullSettings is no dataclass of farss.methods.MethodSettings"),
        ("settings=(PullSettings,)", "settings=PullSettings", "not a tuple of classes"),
        ("aids=(Pull,)", "aids=(PullSettings,)", "not a tuple of classes of farss.training.aids"),
    ],
)
def test_what_is_no_settings_or_no_aid_is_refused_by_name(installed, tmp_path, was, then, what):
    assert was in PACKAGE
    (tmp_path / "site" / "farss_pull.py").write_text(PACKAGE.replace(was, then))
    with pytest.raises(ConfigError) as caught:
        get_method("pull")
    assert what in str(caught.value)


def test_settings_that_mean_the_same_are_equal():
    from farss.methods.fora.settings import ForaConfig
    from farss.methods.kasa.settings import KasaConfig

    one, other = KasaConfig(beta=0.5), ForaConfig(rho=0.25)
    assert FarssConfig(own=(one, other)) == FarssConfig(own=(other, one)) != FarssConfig(own=(one,))
    assert FarssConfig(own=(KasaConfig(),)) == FarssConfig() and hash(FarssConfig(own=(one,)))
    assert FarssConfig(own=(one,)).of(KasaConfig) == one and FarssConfig().of(KasaConfig) == KasaConfig()
