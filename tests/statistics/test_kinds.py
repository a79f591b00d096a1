"""What holds of every statistic alike: it adds up, is found again, goes on to the same bits, and costs as foreseen."""

from __future__ import annotations

import pytest
import torch

from farss.config import FarssConfig
from farss.errors import DataError, StorageError
from farss.experiment.initialisation.planning import take
from farss.methods.statistics import OWN
from farss.model.calibration import Example, batches
from farss.model.targets import find_targets
from farss.statistics.keeping import Growing, Keep
from farss.statistics.summed import notes_of

CONFIG = FarssConfig()
STATISTICS = list(OWN.values())


@pytest.fixture
def queue():
    generator = torch.Generator().manual_seed(1)

    def ids(count):
        return tuple(torch.randint(4, 90, (count,), generator=generator).tolist())

    return batches([Example(ids(5 + i), ids(4)) for i in range(8)], batch_tokens=30, pad_id=0)


class Stop(Exception):
    pass


def stop_after(count):
    seen = []

    def progress(done, total):
        seen.append(done)
        if len(seen) == count:
            raise Stop

    return progress


def equal(one, other):
    mine, theirs = one.parts(), other.parts()
    same = mine.keys() == theirs.keys() and all(torch.equal(part, theirs[name]) for name, part in mine.items())
    return same and one.counts == other.counts


@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda one: one.name)
def test_it_adds_up_over_any_partition(statistic, tiny_gqa, queue):
    model, targets = tiny_gqa.double(), find_targets(tiny_gqa)
    whole = take(statistic, model, queue, targets, CONFIG)
    first, second = (take(statistic, model, part, targets, CONFIG) for part in (queue[:1], queue[1:]))
    merged, before = first.merge(second), {name: part.clone() for name, part in first.parts().items()}
    assert all(torch.equal(part, before[name]) for name, part in first.parts().items())
    first.add_(second)
    assert equal(first, merged) and merged.counts == whole.counts and merged.counts[-1] == 8
    for name, part in whole.parts().items():
        torch.testing.assert_close(merged.parts()[name], part, rtol=1e-11, atol=1e-11 * float(part.abs().max()))


@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda one: one.name)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_interrupted_pass_goes_on_to_the_same_bits(statistic, dtype, tiny_gqa, queue, tmp_path):
    model = tiny_gqa.to(getattr(torch, dtype))
    targets = find_targets(model)
    whole = take(statistic, model, queue, targets, CONFIG)
    for count in range(1, len(queue)):
        keep = Keep(tmp_path / f"{count}.safetensors", "this", seconds=0)
        with pytest.raises(Stop):
            take(statistic, model, queue, targets, CONFIG, stop_after(count), keep)
        assert int(notes_of(keep.path)["batches"]) == count
        done = []
        again = take(statistic, model, queue, targets, CONFIG, lambda d, t, done=done: done.append(d), keep)
        assert len(done) == len(queue) - count and equal(again, whole) and again.restored > 0


@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda one: one.name)
def test_a_pass_that_grows_reads_each_row_once(statistic, tiny_gqa, queue, tmp_path):
    targets, growing = find_targets(tiny_gqa), Growing(tmp_path / "kept.safetensors", "this", seconds=0)
    take(statistic, tiny_gqa, queue[:2], targets, CONFIG, None, growing)
    done = []
    grown = take(statistic, tiny_gqa, queue, targets, CONFIG, lambda d, t: done.append(d), growing)
    assert len(done) == len(queue) - 2 and equal(grown, take(statistic, tiny_gqa, queue, targets, CONFIG))


@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda one: one.name)
def test_what_is_saved_is_loaded(statistic, tiny_gqa, queue, tmp_path):
    targets, path = find_targets(tiny_gqa), tmp_path / "kept.safetensors"
    found = take(statistic, tiny_gqa, queue, targets, CONFIG)
    found.save(path, {"note": "here"})
    loaded = statistic.load(path)
    assert equal(loaded, found) and loaded.identity() == found.identity() and notes_of(path)["note"] == "here"
    other = next(one for one in STATISTICS if one.load.__self__ is not statistic.load.__self__)
    with pytest.raises(StorageError):
        other.load(path)


@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda one: one.name)
def test_of_other_modules_it_is_not_added(statistic, tiny_gqa, queue):
    targets = find_targets(tiny_gqa)
    one, other = (take(statistic, tiny_gqa, queue[:1], part, CONFIG) for part in (targets, targets[1:]))
    with pytest.raises(DataError, match="cannot be merged"):
        one.add_(other)


@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda one: one.name)
@pytest.mark.parametrize("scale", ["trace", "signed_maximum"])
def test_it_takes_the_memory_that_is_foreseen(statistic, scale, tiny_gqa, queue):
    config, targets = CONFIG.override({"start.covariance_scale": scale}), find_targets(tiny_gqa)
    found = take(statistic, tiny_gqa, queue, targets, config)
    assert (
        found.bytes <= statistic.memory(targets, torch.float32, config) * 1.7
    )  # strips of small sums are whole squares
    assert found.bytes >= statistic.memory(targets, torch.float32, config)
