"""Trainings that differ in their seed alone are one method; speeds beside plain LoRA; seeds of single methods."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from farss.config import Recipe
from farss.errors import ConfigError
from farss.experiment.jobs import jobs_of
from farss.experiment.runs.assemble import machines_of
from farss.experiment.runs.finished import FinishedJob, FinishedRun
from farss.experiment.runs.groups import describe, groups_of
from farss.experiment.runs.recipes import shipped_recipes
from farss.experiment.runs.speeds import speeds_to_lora
from farss.methods import get_method

SEEDS = {"methods": ["lora", "farss"], "learning_rates": [1e-3], "method_seeds": {"lora": [0, 1]}}


def owners(folder: str = "run", **changes: Any) -> dict[str, tuple[FinishedRun, FinishedJob]]:
    """The finished jobs of a recipe, named as in a joint report."""
    recipe = Recipe().override({**SEEDS, **changes})
    run = FinishedRun(recipe, Path(folder), {}, [], [], [])
    run.jobs.extend(FinishedJob(job, Path(folder) / job.id, {}, {}) for job in jobs_of(recipe))
    return {(done.job.id if folder == "run" else f"{done.job.id}@{folder}"): (run, done) for done in run.jobs}


def test_seeds_of_one_method_stand_together():
    found = owners()
    groups = groups_of(found, list(found))
    assert groups == {"lora": ["lora-lr0.001-seed0", "lora-lr0.001-seed1"], "farss": ["farss-lr0.001-seed0"]}
    assert describe(found, groups["lora"]) == {"method": "lora", "variant": None, "learning_rate": 1e-3}


def test_learning_rates_are_methods_apart_unless_validation_chose_them():
    grid = {"learning_rates": [1e-3, 1e-4], "method_seeds": {}, "methods": ["lora"]}
    found = owners(**grid)
    assert list(groups_of(found, list(found))) == ["lora lr 0.001", "lora lr 0.0001"]
    found = owners(**grid, select="validation", seeds=[0, 1])
    chosen = ["lora-lr0.001-seed0", "lora-lr0.0001-seed1"]
    assert groups_of(found, chosen) == {"lora": chosen}
    assert describe(found, chosen) == {"method": "lora", "variant": None, "learning_rate": None}


def test_folders_share_a_method_if_it_was_trained_alike():
    first = owners(method_seeds={})
    alike, other = owners("b", seeds=[1], method_seeds={}), owners("c", **{"init.rank": 3, "method_seeds": {}})
    both = first | alike
    assert [len(ids) for ids in groups_of(both, list(both)).values()] == [2, 2]
    both = first | other
    names = list(groups_of(both, list(both)))
    assert names == ["lora lr 0.001 @run", "farss lr 0.001 @run", "lora lr 0.001 @c", "farss lr 0.001 @c"]


@pytest.mark.parametrize("seeds", [[], [1, 1]])
def test_wrong_seeds_of_a_method_are_refused(seeds):
    with pytest.raises(ConfigError, match="at least one value is needed, each once") as caught:
        jobs_of(Recipe().override({"method_seeds": {"lora": seeds}}))
    assert caught.value.where == "method_seeds.lora"
    with pytest.raises(ConfigError, match="did you mean `farss`"):
        jobs_of(Recipe().override({"method_seeds": {"farrs": [0]}}))


def test_the_shipped_comparison_is_what_it_says():
    recipe = Recipe.from_yaml(shipped_recipes()["methods-smollm2"])
    known = Recipe.from_yaml(shipped_recipes()["gsm8k-smollm2"])
    assert recipe.eval.knowledge == known.eval.knowledge and recipe.data.task == known.data.task
    assert recipe.match == "params" and set(recipe.method_learning_rates) | set(recipe.method_seeds) <= set(
        recipe.methods
    )
    assert sum(get_method(name).trains == "adapter" for name in recipe.methods) >= 12
    trials = Counter((job.method, job.seed) for job in jobs_of(recipe))
    seeds = Counter(method for method, _ in trials)
    assert sum(count >= 2 for count in seeds.values()) >= 6 and {"full", "lora", "farss"} <= {
        method for method, count in seeds.items() if count >= 2
    }
    assert len(jobs_of(recipe)) == 23


MACHINE = {"name": "cpu", "cores": 2, "memory_bytes": 8, "threads": 1}


def trained(method: str, speed: float, seed: int = 0, **account: Any) -> FinishedJob:
    job = jobs_of(Recipe(methods=(method,), seeds=(seed,)))[0]
    return FinishedJob(
        job, Path(job.id), {"train_tokens_per_second": speed, "machine": MACHINE, "alone": True, **account}, {}
    )


def test_speed_is_relative_to_plain_lora_on_the_same_machine_alone():
    jobs = [
        trained("lora", 100.0),
        trained("lora", 300.0, 1),
        trained("lora", 110.0, 2),
        trained("farss", 55.0),
        trained("farss", 55.0, 1, alone=False),
        trained("farss", 55.0, 2, machine=MACHINE | {"name": "gpu"}),
        trained("farss", 55.0, 3, machine=None),
    ]
    assert speeds_to_lora(jobs) == [
        pytest.approx(100 / 110), pytest.approx(300 / 110), 1.0, 0.5, None, None, None,
    ]  # fmt: skip
    old = dataclasses.replace(jobs[3], trained={"train_tokens_per_second": 55.0})
    assert speeds_to_lora([jobs[0], old]) == [1.0, None]
    assert speeds_to_lora([jobs[3]]) == [None]


def test_a_report_names_the_machines_that_trained():
    here = trained("lora", 1.0)
    there = trained("farss", 1.0, machine=MACHINE | {"name": "gpu"})
    unknown = trained("farss", 1.0, machine=None)
    assert machines_of([here, unknown, here]) == {"name": "cpu", "cores": 2, "memory_bytes": 8}
    assert machines_of([here, there]) == {"name": "cpu + gpu", "cores": None, "memory_bytes": None}
    assert machines_of([unknown]) is None
