"""Every method's ranks solved for one number of trainable parameters."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from farss.config import FarssConfig
from farss.experiment.initialisation.budget import (
    BudgetWarning,
    at_average,
    at_rank,
    budget_of,
    passing,
    plan_for,
    trainable_parameters,
)
from farss.experiment.initialisation.planning import Preparation, prepare
from farss.methods import METHODS, get_method
from farss.methods.base import RankCapWarning, SpectralMethod
from farss.methods.factored import FactorMethod
from farss.model.calibration import Example, batches
from farss.statistics.gradients import Gradients

CONFIG = FarssConfig(rank=32, shallow_layers=2, r_avg=12, r_max=16)
ADAPTERS = sorted(name for name, method in METHODS.items() if method.trains == "adapter")
UNIFORM = ["pissa", "olora", "lora-null-v2", "fora", "lora-ga"]
SMALL = FarssConfig(rank=3, shallow_layers=2, r_avg=1, r_max=2)
VOCABULARY = 64
BESIDE_FACTORS = {"magnitude", "triplets"}
"""Initialisations that train so much beside B and A, or start so far above R, that equal ranks are no equal budget."""


def rows(count: int) -> list[Example]:
    """Random rows with more supervised tokens than any weight has directions."""
    generator = np.random.default_rng(5)
    drawn = generator.integers(1, VOCABULARY, (count, 40))
    return [Example(tuple(row[:8].tolist()), tuple(row[8:].tolist())) for row in drawn]


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        initializer_range=0.1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


def queue(count: int = 12):
    return batches(rows(count), batch_tokens=512, pad_id=0)


@pytest.fixture(scope="module")
def ready(model) -> Preparation:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankCapWarning)
        return prepare(model, queue(), CONFIG, ADAPTERS, knowledge=queue(3))


def matched(ready: Preparation, name: str, config: FarssConfig = CONFIG, params: int | None = None):
    budget = budget_of(ready.targets, ready.evidence, config, "params", params)
    return plan_for(get_method(name), ready.targets, ready.evidence, config, budget)


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("share", [1.0, 0.8])
def test_every_method_meets_the_budget(ready, name, share):
    reference = ready.plans["lora"].trainable_parameters
    wanted = round(share * reference)
    plan = matched(ready, name, params=None if share == 1 else wanted)
    assert plan.requested_parameters == wanted
    missed = abs(plan.trainable_parameters - wanted)
    # One R for all modules misses by half a step of it at most, which the tolerance is above from R = 50 on.
    if share == 1 and plan.initialisation not in BESIDE_FACTORS:
        assert missed <= 0.01 * wanted
    else:
        rank = plan.settings["rank"]
        steps = [at(ready, name, at_rank(CONFIG, r)) for r in (rank - 1, rank, rank + 1)]
        assert missed <= max(0.01 * wanted, 0.55 * max(steps[1] - steps[0], steps[2] - steps[1]))


@pytest.mark.parametrize("name", ADAPTERS)
def test_equal_ranks_did_not_meet_it_or_are_kept(ready, name):
    given, plan = ready.plans[name], matched(ready, name)
    reference = ready.plans["lora"].trainable_parameters
    if abs(given.trainable_parameters / reference - 1) <= 0.01:
        assert dataclasses.replace(plan, requested_parameters=None, coverage=given.coverage) == given
    else:
        assert plan.settings["rank"] != CONFIG.rank


def test_some_methods_need_other_ranks(ready):
    changed = {name for name in ADAPTERS if matched(ready, name).settings["rank"] != CONFIG.rank}
    assert {"farss", "fixed-rank", "fora", "lora-null-v2"} <= changed
    assert changed.isdisjoint({"lora", "rslora", "pissa", "milora", "farss-init", "corda-kpm", "lora-ga"})


def at(ready, name: str, config: FarssConfig) -> int:
    return trainable_parameters(get_method(name), ready.targets, ready.evidence, config)


@pytest.mark.parametrize("name", ["farss", "fixed-rank"])
@pytest.mark.parametrize("rank", [20, 44])
def test_shallow_ranks_keep_their_ratio_where_that_meets_the_budget(ready, name, rank):
    plan = matched(ready, name, params=at(ready, name, at_rank(CONFIG, rank)))
    ranks = tuple(plan.settings[key] for key in ("rank", "r_avg", "r_max"))
    assert ranks == (rank, round(12 * rank / 32), round(16 * rank / 32))
    assert {t.rank for t in plan.targets if t.region == "deep"} == {rank}
    assert max(t.rank for t in plan.targets if t.region == "shallow") <= ranks[2]


@pytest.mark.parametrize("name", ["farss", "fixed-rank"])
def test_shallow_ranks_leave_their_ratio_where_nothing_else_meets_the_budget(ready, name):
    config = dataclasses.replace(CONFIG, shallow_layers=1, rank=20, r_avg=10)
    steps = [at(ready, name, at_rank(config, r)) for r in (23, 24)]
    wanted = sum(steps) // 2
    assert min(abs(count / wanted - 1) for count in steps) > 0.01  # the test is of something
    plan = matched(ready, name, config, wanted)
    assert abs(plan.trainable_parameters / wanted - 1) <= 0.01
    assert plan.settings["rank"] in (23, 24)
    departures = [
        abs(average / whole.rank - 0.5)
        for whole in (at_rank(config, 23), at_rank(config, 24))
        for average in range(1, whole.rank + 1)
        if abs(at(ready, name, at_average(whole, average)) / wanted - 1) <= 0.01
    ]
    assert abs(plan.settings["r_avg"] / plan.settings["rank"] - 0.5) == pytest.approx(min(departures))


@pytest.mark.parametrize("name", UNIFORM)
@pytest.mark.parametrize("share", [0.55, 0.9, 1.3])
def test_a_budget_between_two_ranks_gets_the_nearest_and_one_warning(ready, name, share):
    wanted = round(share * matched(ready, "lora", SMALL).trainable_parameters)
    method = get_method(name)
    counts = [trainable_parameters(method, ready.targets, ready.evidence, at_rank(SMALL, r)) for r in range(1, 30)]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        plan = matched(ready, name, SMALL, wanted)
    assert plan.trainable_parameters == min(counts, key=lambda count: abs(count - wanted))
    missed = abs(plan.trainable_parameters / wanted - 1) > 0.01
    messages = [str(w.message) for w in said if w.category is BudgetWarning]
    assert len(messages) == missed
    assert all(name in text and f"{wanted:,}" in text for text in messages)


@pytest.mark.parametrize("name", [n for n in ADAPTERS if isinstance(METHODS[n], FactorMethod)])
def test_factors_are_made_once(ready, monkeypatch, name):
    made, kind = [], type(get_method(name))
    factors = kind.factors

    def counted(self, target, rank, *rest):
        made.append(target.name)
        return factors(self, target, rank, *rest)

    monkeypatch.setattr(kind, "factors", counted)
    matched(ready, name, params=round(0.6 * ready.plans["lora"].trainable_parameters))
    assert made == [target.name for target in ready.targets]


@pytest.mark.parametrize("name", ADAPTERS)
def test_what_is_counted_is_what_is_planned(ready, name):
    method = get_method(name)
    assert trainable_parameters(method, ready.targets, ready.evidence, CONFIG) == ready.plans[name].trainable_parameters


def test_directions_that_are_missing_are_made_up_for_elsewhere(ready):
    """Gradients of rank 8 in half of the modules leave lora-ga four directions there; the others get more."""
    generator = torch.Generator().manual_seed(2)
    poor = {}
    for number, target in enumerate(ready.targets):
        m, n = target.shape
        inner = 8 if number % 2 else min(m, n)
        left, right = (torch.randn(d, inner, generator=generator).double() for d in (m, n))
        poor[target.name] = left @ right.T
    evidence = dataclasses.replace(ready.evidence, statistics={"gradient": Gradients(poor, 1)})
    config = dataclasses.replace(CONFIG, rank=20)
    budget = budget_of(ready.targets, evidence, config, "params")
    assert budget is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = get_method("lora-ga").plan(ready.targets, evidence, config)
        plan = plan_for(get_method("lora-ga"), ready.targets, evidence, config, budget)
    assert plain.trainable_parameters < 0.7 * budget
    assert abs(plan.trainable_parameters / budget - 1) < 0.02
    assert {t.rank for t in plan.targets} == {4, plan.settings["rank"]}


def test_preparation_plans_within_the_budget(model):
    with pytest.warns(BudgetWarning, match="lora-null-v2"):
        found = prepare(
            model, queue(), SMALL, ["lora-null-v2", "lora"], knowledge=queue(3), match="params", budget_params=50_000
        )
    for plan in found.plans.values():
        assert plan.requested_parameters == 50_000
        rest = [at_rank(SMALL, r) for r in range(1, 40)]
        counts = [trainable_parameters(get_method(plan.method), found.targets, found.evidence, c) for c in rest]
        assert abs(plan.trainable_parameters - 50_000) == min(abs(count - 50_000) for count in counts)


def test_equal_ranks_are_the_default(model, ready):
    assert budget_of(ready.targets, ready.evidence, CONFIG, "rank") is None
    plan = prepare(model, queue(), CONFIG, ["milora"], spectra=None).plans["milora"]
    assert plan.requested_parameters is None and plan == ready.plans["milora"]


@pytest.mark.parametrize("power", [1, 2, 0.5])
@pytest.mark.parametrize("wanted", [0, 1, 9, 700, 701, 10**9])
def test_passing_finds_the_neighbours(power, wanted):
    counts = [round(10 * min(r, 70) ** power) for r in range(101)]
    found = passing(counts.__getitem__, wanted, 1, 100)
    best = min(abs(count - wanted) for count in counts[1:])
    assert min(abs(counts[r] - wanted) for r in found) == best
    assert len(found) == 1 or found[1] == found[0] + 1


def test_the_registry_has_methods_with_shallow_ranks_of_their_own():
    own = {n for n in ADAPTERS if isinstance(METHODS[n], SpectralMethod) and METHODS[n].shallow_rank != "deep"}  # type: ignore[attr-defined]
    assert own == {"farss", "fixed-rank"}
