"""The spectrum cache: decomposed once per weight and route, never stale, never trusted when damaged."""

from __future__ import annotations

import pytest
import torch

from farss.model import spectra
from farss.model.spectra import SpectrumCache
from farss.model.targets import find_targets, weight_matrix


@pytest.fixture
def counted(monkeypatch):
    """The calls of `decompose` that really happened."""
    calls = []
    original = spectra.decompose

    def decompose(weight, route):
        calls.append(route)
        return original(weight, route)

    monkeypatch.setattr(spectra, "decompose", decompose)
    return calls


def same(one, two):
    fields = ("side", "shape", "route", "orthogonality", "reconstruction")
    equal = all(getattr(one, name) == getattr(two, name) for name in fields)
    return equal and torch.equal(one.sigma, two.sigma) and torch.equal(one.basis, two.basis)


@pytest.mark.parametrize("fixture", ["tiny_gqa", "tiny_gpt2"])
def test_a_second_cache_reads_what_the_first_wrote(request, fixture, tmp_path, counted):
    targets = find_targets(request.getfixturevalue(fixture))[:4]
    first = [SpectrumCache(tmp_path).get(t) for t in targets]
    second = [SpectrumCache(tmp_path).get(t) for t in targets]
    assert len(counted) == 4
    assert all(same(one, two) for one, two in zip(first, second, strict=True))
    weight = weight_matrix(targets[1]).double()
    assert torch.allclose(first[1].sigma, torch.linalg.svdvals(weight), rtol=1e-6)


def test_routes_dtypes_and_contents_are_kept_apart(tiny_llama, tmp_path, counted):
    cache, target = SpectrumCache(tmp_path), find_targets(tiny_llama)[0]
    cache.get(target)
    cache.get(target, "gesdd")
    target.module.weight.data[0, 0] += 1
    changed = cache.get(target)
    tiny_llama.double()
    assert cache.get(target).basis.dtype == torch.float64
    assert len(counted) == 4
    assert torch.allclose(changed.sigma, torch.linalg.svdvals(weight_matrix(target)), rtol=1e-6)


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_damaged_file_is_replaced_with_a_warning(tiny_llama, tmp_path, counted, damage):
    target = find_targets(tiny_llama)[0]
    first = SpectrumCache(tmp_path).get(target)
    (file,) = tmp_path.iterdir()
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:100])
    else:
        from farss.storage import write_tensors

        write_tensors(file, {"sigma": first.sigma[:3], "basis": first.basis})
    with pytest.warns(UserWarning, match="q_proj"):
        again = SpectrumCache(tmp_path).get(target)
    assert same(first, again) and same(first, SpectrumCache(tmp_path).get(target)) and len(counted) == 2


def test_memory_is_used_only_when_asked(tiny_llama, counted):
    target = find_targets(tiny_llama)[0]
    forgetful, mindful = SpectrumCache(None), SpectrumCache(None, memo=True)
    for cache in (forgetful, forgetful, mindful, mindful):
        cache.get(target)
    assert len(counted) == 3


def test_auto_keeps_its_choice_beside_the_spectra_for_later_processes(tiny_llama, tmp_path, counted, monkeypatch):
    target = find_targets(tiny_llama)[0]
    monkeypatch.setattr(spectra, "named_route", lambda route, weight: "polar")
    first = SpectrumCache(tmp_path).get(target, "auto")
    monkeypatch.setattr(spectra, "named_route", lambda route, weight: "gesdd")
    assert same(first, SpectrumCache(tmp_path).get(target, "auto")) and first.route == "polar"
    assert same(first, SpectrumCache(tmp_path).get(target, "polar")) and counted == ["polar"]
    assert SpectrumCache(None).get(target, "auto").route == "gesdd"


@pytest.mark.parametrize("note", ["", "[]", '{"route": "auto"}'])
def test_a_damaged_note_of_the_choice_is_replaced_with_a_warning(tiny_llama, tmp_path, counted, monkeypatch, note):
    target = find_targets(tiny_llama)[0]
    monkeypatch.setattr(spectra, "named_route", lambda route, weight: "gesdd")
    SpectrumCache(tmp_path).get(target, "auto")
    (file,) = tmp_path.glob("*.json")
    whole = file.read_text()
    file.write_text(note)
    with pytest.warns(UserWarning, match="q_proj"):
        SpectrumCache(tmp_path).get(target, "auto")
    assert file.read_text() == whole and counted == ["gesdd"]
