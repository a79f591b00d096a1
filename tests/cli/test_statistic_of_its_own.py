"""A statistic of another package: taken, sharded, merged, resumed, kept and keyed like those of farss."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from farss.config import Recipe
from farss.errors import ConfigError
from farss.experiment.initialisation.statistics import load_statistics
from farss.experiment.runs.keys import Keys
from farss.methods import get_method, plugins
from farss.model.plan import Plan

PACKAGE = '''
import json
from dataclasses import dataclass, field

import torch

from farss.methods import MethodSettings
from farss.methods.base import adapter_scale
from farss.methods.owned import plan_settings
from farss.model.plan import Plan, TargetPlan
from farss.statistics.kinds import Statistic
from farss.statistics.observing import DataPass, Observer, observe
from farss.statistics.readers import reader_for
from farss.statistics.summed import Summed
from farss.storage import read_tensors, write_tensors


class Loudness(Summed):
    """Sums of |h|^p of every module's inputs."""

    COUNTS = ("positions", "sequences")

    def __init__(self, sums, power, positions=0, sequences=0):
        self.sums, self.power, self.positions, self.sequences = sums, power, positions, sequences

    def parts(self):
        return self.sums

    def identity(self):
        return set(self.sums), self.power

    def save(self, path, notes=None):
        head = {"power": self.power, "counts": self.counts}
        write_tensors(path, self.sums, {**(notes or {}), "loudness": json.dumps(head)})

    @classmethod
    def load(cls, path):
        tensors, notes = read_tensors(path)
        head = json.loads(notes["loudness"])
        return cls(tensors, head["power"], *head["counts"])


class LoudPass(DataPass):
    def __init__(self, targets, inputs, power):
        super().__init__(targets, inputs, "nonpad")
        self.observers = [Loud(self, target, power) for target in targets]
        self.summed = Loudness({one.target.name: one.total for one in self.observers}, power)

    def count(self, batch):
        self.summed.positions += self.row_count
        self.summed.sequences += batch.input_ids.shape[0]


class Loud(Observer):
    def __init__(self, run, target, power):
        super().__init__(run, target)
        self.power, self.total = power, torch.zeros((), dtype=torch.float64)

    def see_input(self, h, weight, product):
        self.total += self.run.select(h, self.target).double().abs().pow(self.power).sum()


def collect(taken):
    power, queue = taken.config.of(LoudSettings).power, list(taken.batches)
    reader = reader_for(queue, taken.model)
    begin = lambda inputs: LoudPass(taken.targets, inputs, power)
    return observe(taken.model, queue, taken.targets, begin, reader, taken.progress, taken.keep).summed


LOUDNESS = Statistic(
    "loudness",
    "loudness of inputs",
    collect,
    Loudness.load,
    lambda targets, dtype, config: 8 * len(targets),
    reads=lambda config: config.of(LoudSettings).power,
)


@dataclass(frozen=True)
class LoudSettings(MethodSettings):
    """The power of loudness."""

    group = "loud"
    power: float = 2.0


@dataclass(frozen=True)
class LoudMethod:
    name: str = "loud"
    summary: str = "rank by loudness"
    needs: frozenset = frozenset({"loudness"})
    trains: str = "adapter"
    settings: tuple = (LoudSettings,)
    statistics: tuple = (LOUDNESS,)

    def plan(self, targets, evidence, config):
        found = evidence.of("loudness", self.name)
        loudest = sorted(targets, key=lambda t: -float(found.sums[t.name]))[: len(targets) // 2]
        rows = tuple(
            TargetPlan(t.name, t.layer, "deep", t.shape, config.rank, adapter_scale(config.rank, config))
            for t in targets
            if t in loudest
        )
        settings, data = plan_settings(self, config), evidence.data_of("loudness")
        fingerprint = evidence.model_fingerprint
        return Plan(self.name, "random", "reference", fingerprint, settings, rows, data)


LOUD = LoudMethod()
'''


def forget() -> None:
    importlib.invalidate_caches()
    plugins.entry_points.cache_clear()
    plugins.load.cache_clear()


@pytest.fixture
def installed(tmp_path, monkeypatch) -> Iterator[Path]:
    """The package as if it were installed; the folder it is in."""
    info = tmp_path / "site" / "farss_loud-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: farss-loud\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[{plugins.GROUP}]\nloud = farss_loud:LOUD\n")
    (info.parent / "farss_loud.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(info.parent))
    forget()
    yield info.parent
    monkeypatch.undo()
    sys.modules.pop("farss_loud", None)
    forget()


@pytest.fixture
def recipe(workshop) -> str:
    return workshop.recipe("loud", **{"model.dtype": "float64", "methods": ["full", "loud"]})


def targets(place: Path) -> list[str]:
    return [target.name for target in Plan.load(place / "plan.json").targets]


def test_it_is_taken_sharded_and_merged(farss, recipe, installed, tmp_path):
    asked = ("init", "--recipe", recipe, "--method", "loud")
    assert farss(*asked, "--out", tmp_path / "whole")[0] == 0
    assert not (tmp_path / "whole" / "stats.safetensors").exists()
    for number in (1, 2):
        code, _, err = farss(*asked, "--shard", f"{number}/2", "--out", tmp_path / str(number))
        assert code == 0, err
    merged = tmp_path / "loudness.safetensors"
    code, out, err = farss("merge-stats", tmp_path / "1", tmp_path / "2", "--out", merged)
    assert code == 0 and "loudness: 2 of 2 shards: whole" in out, err
    one, other = (load_statistics(file)[0] for file in (tmp_path / "whole" / "loudness.safetensors", merged))
    assert one.counts == other.counts and one.counts[-1] == 6
    for name, part in one.parts().items():
        torch.testing.assert_close(part, other.parts()[name], rtol=1e-12, atol=0)
    assert farss(*asked, "--stats", merged, "--calibration-rows", 1, "--out", tmp_path / "again")[0] == 0
    assert targets(tmp_path / "again") == targets(tmp_path / "whole")
    assert Plan.load(tmp_path / "again" / "plan.json").data["rows"] == 6


def test_processes_share_it(farss, recipe, installed, tmp_path):
    assert farss("init", "--recipe", recipe, "--method", "loud", "--out", tmp_path / "whole")[0] == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out = tmp_path / "crew"
    command = [sys.executable, "-m", "farss", "init", "--recipe", recipe, "--method", "loud", "--out", str(out)]
    paths = os.pathsep.join([str(installed), *filter(None, [os.environ.get("PYTHONPATH")])])
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    started = [subprocess.Popen(command, env={**common, "RANK": str(rank)}) for rank in (0, 1)]
    assert [process.wait(timeout=300) for process in started] == [0, 0]
    whole, shared = (load_statistics(place / "loudness.safetensors") for place in (tmp_path / "whole", out))
    assert whole[0].counts == shared[0].counts and whole[1] == shared[1] and shared[1].complete
    for name, part in whole[0].parts().items():
        torch.testing.assert_close(part, shared[0].parts()[name], rtol=1e-12, atol=0)


def test_a_run_takes_it_once_and_again_where_what_it_reads_changes(farss, recipe, installed, tmp_path):
    out = tmp_path / "run"
    done = out / "loudness" / "done.json"
    stamps = []
    for more in ((), (), ("--set", "init.rank=3"), ("--set", "init.loud.power=1.0")):
        code, _, err = farss("run", recipe, "--out", out, *more)
        assert code == 0, err
        stamps.append(done.stat().st_mtime_ns)
    assert stamps[0] == stamps[1] == stamps[2] < stamps[3]
    report = json.loads((out / "report.json").read_text())
    (run,) = (run for run in report["runs"] if run["method"] == "loud")
    assert run["init_seconds"] > 0


def test_keys_without_it_are_what_they_were(installed):
    with_it, without = (Keys(Recipe(methods=methods)) for methods in (("full", "farss", "loud"), ("full", "farss")))
    ours = next(one for one in with_it.passes if "curvature" in one.statistics)
    assert ours.keys["curvature"] == without.passes[0].keys["curvature"]
    assert "loudness" in ours.statistics and "loudness" not in without.passes[0].statistics


def test_without_its_package_it_is_refused_by_name(farss, recipe, installed, tmp_path, monkeypatch):
    assert farss("init", "--recipe", recipe, "--method", "loud", "--out", tmp_path / "whole")[0] == 0
    (installed / "farss_loud.py").write_text(PACKAGE.replace('"loudness"', '"volume"'))
    sys.modules.pop("farss_loud", None)
    shutil.rmtree(installed / "__pycache__", ignore_errors=True)
    forget()
    with pytest.raises(ConfigError, match=r"a statistic is not known[\s\S]*volume[\s\S]*got: loudness"):
        load_statistics(tmp_path / "whole" / "loudness.safetensors")


def test_parts_hold_the_same_statistics(farss, recipe, installed, tmp_path):
    for number, method in ((1, "loud"), (2, "farss")):
        asked = ("init", "--recipe", recipe, "--method", method, "--shard", f"{number}/2")
        assert farss(*asked, "--out", tmp_path / str(number))[0] == 0
    code, _, err = farss("merge-stats", tmp_path / "1", tmp_path / "2", "--out", tmp_path / "merged")
    assert code == 2 and "the parts hold different statistics" in err and not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"loudness",\n    "loudness of', '"gradient",\n    "loudness of'), "farss has a statistic `gradient`"),
        (("statistics: tuple = (LOUDNESS,)", "statistics: tuple = ('loudness',)"), "not a tuple of farss.statistics"),
        (("statistics: tuple = (LOUDNESS,)", "statistics: tuple = ()"), "`needs` is"),
    ],
)
def test_a_method_with_a_mistake_in_it_is_refused(installed, change, message):
    (installed / "farss_loud.py").write_text(PACKAGE.replace(*change))
    forget()
    with pytest.raises(ConfigError, match=message):
        get_method("loud")
