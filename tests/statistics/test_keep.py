"""A pass that was interrupted goes on from the sums it kept, to the same bits."""

from __future__ import annotations

import pytest
import torch

from farss.errors import DataError, StorageError
from farss.model.calibration import Example, batches
from farss.model.targets import find_targets
from farss.statistics.curvature import collect
from farss.statistics.keeping import Growing, Keep
from farss.statistics.moments import Curvature
from farss.statistics.summed import notes_of


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
    assert (one.tokens, one.supervised, one.sequences) == (other.tokens, other.supervised, other.sequences)
    return all(torch.equal(total.packed, other.sums[key].packed) for key, total in one.sums.items())


@pytest.mark.parametrize("settings", [{}, {"fisher": "sampled", "seed": 5}], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_it_goes_on_to_the_same_bits_from_every_batch(tiny_gqa, queue, tmp_path, settings, dtype):
    model = tiny_gqa.to(getattr(torch, dtype))
    targets = find_targets(model)
    whole = collect(model, queue, targets, **settings)
    assert len(queue) > 2
    for count in range(1, len(queue)):
        keep = Keep(tmp_path / f"{count}.safetensors", "this", seconds=0)
        with pytest.raises(Stop):
            collect(model, queue, targets, keep=keep, progress=stop_after(count), **settings)
        assert int(notes_of(keep.path)["batches"]) == count
        done = []
        again = collect(model, queue, targets, keep=keep, progress=lambda d, t, done=done: done.append(d), **settings)
        assert len(done) == len(queue) - count
        assert equal(again, whole)


def test_sums_of_another_pass_are_not_used(tiny_gqa, queue, tmp_path):
    targets = find_targets(tiny_gqa)
    path = tmp_path / "kept.safetensors"
    with pytest.raises(Stop):
        collect(tiny_gqa, queue, targets, keep=Keep(path, "that", seconds=0), progress=stop_after(2))
    done = []
    again = collect(tiny_gqa, queue, targets, keep=Keep(path, "this"), progress=lambda d, t: done.append(d))
    assert len(done) == len(queue) and equal(again, collect(tiny_gqa, queue, targets))


def test_sums_are_not_written_more_often_than_asked(tiny_gqa, queue, tmp_path):
    path = tmp_path / "kept.safetensors"
    collect(tiny_gqa, queue, find_targets(tiny_gqa), keep=Keep(path, "this", seconds=3600))
    assert not path.exists()


def test_sums_of_other_modules_are_refused(tiny_gqa, queue, tmp_path):
    targets = find_targets(tiny_gqa)
    whole, fewer = collect(tiny_gqa, queue, targets), collect(tiny_gqa, queue, targets[:3])
    with pytest.raises(DataError, match="different modules"):
        whole.take(fewer)


def test_a_header_that_is_no_header_is_said(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "stats.safetensors"
    save_file({"a": torch.zeros(2)}, path, metadata={"curvature": "{broken"})
    with pytest.raises(StorageError, match="no curvature"):
        Curvature.load(path)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_longer_queue_reads_only_what_is_new(tiny_gqa, queue, tmp_path, dtype):
    model = tiny_gqa.to(getattr(torch, dtype))
    targets = find_targets(model)
    whole = collect(model, queue, targets, fisher="sampled", seed=5)
    growing = Growing(tmp_path / "sums.safetensors", "this", seconds=0)
    read = []
    for count in (1, 2, len(queue)):
        sums = collect(model, queue[:count], targets, keep=growing, progress=lambda *_: read.append(1),
                       fisher="sampled", seed=5)  # fmt: skip
        assert int(notes_of(growing.path)["batches"]) == count
    assert len(read) == len(queue)
    assert equal(sums, whole)


def test_a_longer_queue_goes_on_from_the_file_of_a_shorter_one(tiny_gqa, queue, tmp_path):
    targets = find_targets(tiny_gqa)
    whole = collect(tiny_gqa, queue, targets)
    collect(tiny_gqa, queue[:2], targets, keep=Growing(tmp_path / "sums.safetensors", "this", seconds=0))
    with pytest.raises(Stop):
        keep = Growing(tmp_path / "sums.safetensors", "this", seconds=0)
        collect(tiny_gqa, queue, targets, keep=keep, progress=stop_after(1))
    read, again = [], Growing(tmp_path / "sums.safetensors", "this")
    assert equal(collect(tiny_gqa, queue, targets, keep=again, progress=lambda *_: read.append(1)), whole)
    assert len(read) == len(queue) - 3
