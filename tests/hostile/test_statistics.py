"""Statistics files that were edited or damaged are refused; they are not scored with."""

from __future__ import annotations

import json
import os

import pytest
import torch

from farss.errors import FarssError
from farss.experiment.initialisation.statistics import Origin, load_statistics, save_statistics
from farss.statistics.moments import Curvature, SymmetricSum
from farss.storage import read_tensors, write_tensors


def curvature() -> Curvature:
    sums = {}
    for key, k in (("h/a", 4), ("delta/a", 3)):
        sums[key] = SymmetricSum(k, torch.float32)
        sums[key].add(torch.randn(7, k, generator=torch.Generator().manual_seed(k)))
    return Curvature(sums, {"a": "a"}, {"a": (3, 4)}, {"tokens": "nonpad"}, 7, 5, 1)


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "stats.safetensors"
    save_statistics(curvature(), Origin("f" * 64, "torch.float32", {"rows": 1}), path)
    return path


HEADS = {
    "columns as text": {"columns": {"h/a": "4", "delta/a": 3}},
    "columns beyond memory": {"columns": {"h/a": 2**40, "delta/a": 3}},
    "columns below 0": {"columns": {"h/a": -4, "delta/a": 3}},
    "other columns": {"columns": {"h/a": 5, "delta/a": 3}},
    "columns as a list": {"columns": ["h/a", "delta/a"]},
    "shapes as text": {"shapes": {"a": "34"}},
    "shapes of three": {"shapes": {"a": [3, 4, 5]}},
    "no shapes": {"shapes": None},
    "inputs as a list": {"inputs": ["a"]},
    "settings null": {"settings": None},
    "tokens as text": {"tokens": "7"},
    "tokens below 0": {"tokens": -7},
    "tokens beyond 64 bits": {"tokens": 10**40},
    "another format": {"format": "farss-curvature-0"},
}
TEXTS = ["", "[]", "{", "[" * 50_000, '{"format": ' + "9" * 5_000 + "}", "null"]


def turned_away(path) -> None:
    with pytest.raises(FarssError) as caught:
        load_statistics(path)
    assert len(str(caught.value)) < 2_000


def rewritten(path, change) -> None:
    tensors, metadata = read_tensors(path)
    change(tensors, metadata)
    write_tensors(path, tensors, metadata)


def test_the_sound_one_comes_back(written):
    loaded, origin = load_statistics(written)
    assert loaded.tokens == 7 and origin.complete
    assert torch.equal(loaded.sums["h/a"].dense(), curvature().sums["h/a"].dense())
    wide = SymmetricSum(400, torch.float32)  # of several strips
    wide.add(torch.randn(9, 400))
    assert torch.allclose(wide.diagonal().double(), wide.dense().diagonal())


@pytest.mark.case("edited statistics end in tracebacks, or impossible ones are scored with")
@pytest.mark.parametrize("name", HEADS)
def test_metadata_of_another_type_are_refused(written, name):
    rewritten(written, lambda _, m: m.update(curvature=json.dumps(json.loads(m["curvature"]) | HEADS[name])))
    turned_away(written)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("entry", ["curvature", "origin"])
def test_metadata_that_are_none_are_refused(written, entry, text):
    rewritten(written, lambda _, m: m.update({entry: text}))
    turned_away(written)


@pytest.mark.parametrize("change", [{"shards": [0]}, {"shards": ["1"]}, {"count": 0}, {"count": "1"}, {"shards": 5}])
def test_origins_without_sense_are_refused(written, change):
    rewritten(written, lambda _, m: m.update(origin=json.dumps(json.loads(m["origin"]) | change)))
    turned_away(written)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_moments_that_are_no_sums_of_squares_are_refused(written, value):
    rewritten(written, lambda t, _: t["h/a"].__setitem__(0, value))
    turned_away(written)


@pytest.mark.parametrize("tensor", [torch.zeros(3), torch.zeros(4, 4), torch.zeros(16, dtype=torch.int32)])
def test_moments_of_another_form_are_refused(written, tensor):
    rewritten(written, lambda t, _: t.update({"h/a": tensor}))
    turned_away(written)


def test_what_is_no_file_is_refused(refused, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text").write_text("words")
    for name in ("pipe", "text", "missing"):
        turned_away(tmp_path / name)
        refused("merge-stats", tmp_path / name, "--out", tmp_path / "out", codes=(1, 2))
