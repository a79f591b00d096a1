"""What farss itself left on a disk, damaged in every way: refused by name with the way out, or made again, and said."""

from __future__ import annotations

import ast
import gzip
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from farss.config import FarssConfig, TrainConfig
from farss.errors import FarssError
from farss.evaluation.glue import load_samples
from farss.experiment.arithmetic import arithmetic_in
from farss.experiment.initialisation.growing import Growth
from farss.experiment.initialisation.kept_blocks import ScoredBlocks
from farss.experiment.initialisation.streaming import walk_states
from farss.experiment.kept_scores import KeptScores, date_of_request
from farss.experiment.materials import Drawn
from farss.experiment.runs.records import STATISTICS, account
from farss.experiment.stages import finished
from farss.experiment.unchanged import check_unchanged
from farss.methods.base import Evidence
from farss.model import arithmetic
from farss.model.spectra import SpectrumCache
from farss.statistics.gradients import Gradients
from farss.statistics.layer_fisher import LayerFisher
from farss.storage import write_tensors
from farss.storage.owned import read_mark, take
from farss.training.checkpoints import PREFIX, STATE, WEIGHTS, check_settings, latest_checkpoint

SOURCE = Path(__file__).parents[2] / "src" / "farss"
DEEP = b'{"a": ' * 100_000 + b"1" + b"}" * 100_000
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda good: good[: len(good) // 2],
    "empty": lambda good: b"",
    "a list": lambda good: b"[]",
    "a text": lambda good: b'"farss"',
    "deep": lambda good: b"[" * 1_000_000,
    "deep and whole": lambda good: DEEP,
    "no text": lambda good: b"\xff\xfe\x00",
    "NaN": lambda good: good.replace(b"1", b"NaN"),
    "texts for numbers": lambda good: good.replace(b"1", b'"one"'),
    "null for numbers": lambda good: good.replace(b"1", b"null"),
    "lists for objects": lambda good: good.replace(b"{", b"[").replace(b"}", b"]").replace(b":", b","),
}
"""By name: the bytes of a sound file -> those of a damaged one. In every sound file below each 1 is a number."""


def growth(kept: Path) -> Growth:
    return Growth(Drawn([], []), list, lambda rows: {}, FarssConfig(), kept, "this")


DECIDED = {"checkpoint": "a", "weights": "b", "training": "c", "device": "d", "reason": "e", "speeds": {"a": 1}}
SPENT = {"seconds": 1, "peak_bytes": 1}
STEP = {"rows": 1, "tokens": 1, "agreed": {"ranks": 1, "low": 1, "high": 1}}
REFUSED: dict[str, tuple[str, Any, Callable[[Path], object]]] = {
    "account of a stage": ("done.json", {"key": "k", **SPENT}, lambda f: account(f.parent, "k", STATISTICS)),
    "inputs": ("inputs.json", {"model": "1"}, lambda f: check_unchanged({}, f.parent)),
    "arithmetic": ("arithmetic.json", {"asked": {}, "decided": DECIDED}, lambda f: arithmetic_in(f.parent)),
    "measured": ("measured.json", {"parts": {}, "seconds": 1}, lambda f: KeptScores(f.parent, "eval")),
    "result": ("results.json", {"scores": {"a": 1}}, lambda f: KeptScores(f.parent, "eval").result),
    "request": ("request.json", {"data": {"date": "1"}}, lambda f: date_of_request(f.parent)),
    "mark": (".farss.json", {"schema_version": 1, "verb": "run", "files": {}}, lambda f: read_mark(f.parent)),
}
"""Kind of file -> its name, a sound content, and what reads it."""
SOUND = {(kind, damage) for kind in ("inputs", "request") for damage in ("NaN", "null for numbers")}
SOUND |= {(kind, damage) for kind in ("result", "walk") for damage in ("texts for numbers", "null for numbers")}
SOUND |= {("stage", "texts for numbers")}
"""Where what was changed is no damage: another text, or nothing that is looked at."""


def said_of(read: Callable[[Path], object], file: Path) -> str:
    with pytest.raises(FarssError) as caught:
        read(file)
    message = str(caught.value)
    assert len(message) < 2_000 and str(file) in message and "what to do" in message, message
    return message


@pytest.mark.case("a file that farss itself wrote is damaged")
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_needed_is_refused_by_name_with_the_way_out(kind, damage, tmp_path):
    name, content, read = REFUSED[kind]
    good = json.dumps(content).encode()
    (tmp_path / name).write_bytes(DAMAGES[damage](good))
    if (kind, damage) in SOUND:
        read(tmp_path / name)
    else:
        said_of(read, tmp_path / name)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_too_large_is_refused(kind, tmp_path, monkeypatch):
    name, _, read = REFUSED[kind]
    (tmp_path / name).touch()
    os.truncate(tmp_path / name, (256 << 20) + 1)  # takes no space
    assert "larger than one can be" in said_of(read, tmp_path / name)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_line_of_packed_samples_is_refused(damage, tmp_path):
    line = {"task": "t", "split": "s", "id": "i", "label": 1, "prediction": 1, "logits": [1]}
    good = json.dumps(line).encode()
    file = tmp_path / "samples.jsonl.gz"
    file.write_bytes(gzip.compress(good))
    assert len(load_samples(file)) == 1
    bad = gzip.compress(good)[:-9] if damage == "cut" else gzip.compress(DAMAGES[damage](good) or b"{}")
    file.write_bytes(bad)
    said_of(load_samples, file)


def timed(file: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    calls = []
    monkeypatch.setattr(arithmetic, "cache_root", lambda: file.parent)
    monkeypatch.setattr(arithmetic, "_time", lambda *_: calls.append(1) or {"float32": 2.0})
    assert arithmetic.speed_of(torch.float32, torch.device("cpu")) == 2.0
    return bool(calls)


def begun_again(file: Path, _: pytest.MonkeyPatch) -> bool:
    walk_states(file.parent, {"a": 1})
    return json.loads(file.read_text()) == {"a": 1}


SETTLED = {"identity": "this", "settled": {"steps": [STEP], "available": 1}}
AGAIN: dict[str, tuple[str, Any, Callable[[Path, pytest.MonkeyPatch], bool]]] = {
    "timings": ("arithmetic.json", {"a": {"float32": 1}}, timed),
    "stage": ("done.json", {"key": 1}, lambda f, _: finished(f.parent, "k") is None),
    "rows read": ("settled.json", SETTLED, lambda f, _: growth(f.parent).recorded().steps == ()),
    "walk": ("walk.json", {"b": 1}, begun_again),
}


@pytest.mark.case("a file that farss itself wrote to save work is damaged")
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", AGAIN)
def test_what_saves_work_is_made_again_and_that_is_said(kind, damage, tmp_path, monkeypatch):
    name, content, again = AGAIN[kind]
    take(tmp_path, "init, a walk", writing=[name])
    (tmp_path / name).write_bytes(DAMAGES[damage](json.dumps(content).encode()))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert again(tmp_path / name, monkeypatch)
    if (kind, damage) in SOUND:
        assert not said
        return
    (line,) = {str(warning.message) for warning in said}
    assert str(tmp_path / name) in line and "\n" not in line and len(line) < 1_000


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_training_goes_on_before_a_damaged_checkpoint(damage, tmp_path):
    state = {"global_step": 1, "log_history": [{"loss": 1.0}]}
    take(tmp_path, "train, its checkpoints", writing=[f"{PREFIX}*"])
    for step in (5, 9):
        (tmp_path / f"{PREFIX}{step}").mkdir()
        (tmp_path / f"{PREFIX}{step}" / STATE).write_text(json.dumps(state))
        (tmp_path / f"{PREFIX}{step}" / WEIGHTS).touch()
    newest = latest_checkpoint(tmp_path)
    assert newest is not None and newest.name == f"{PREFIX}9"
    if damage == "NaN":
        pytest.skip("a loss may be NaN, and transformers writes it so")
    (newest / STATE).write_bytes(DAMAGES[damage]((newest / STATE).read_bytes()))
    with pytest.warns(UserWarning, match="the one before it is taken"):
        older = latest_checkpoint(tmp_path)
    assert older is not None and older.name == f"{PREFIX}5"
    with pytest.raises(FarssError, match=r"account of a training(.|\n)*--fresh"), pytest.warns(UserWarning):
        check_settings(tmp_path, TrainConfig())


@pytest.mark.parametrize("damage", DAMAGES)
def test_notes_in_tensor_files_are_checked(tiny_llama, damage, tmp_path):
    from farss.model.targets import find_targets

    bad = DAMAGES[damage](b'{"format": "farss-gradients-1", "supervised": 1, "sequences": 1}')
    text = bad.decode("utf-8", "replace")
    write_tensors(tmp_path / "gradients.safetensors", {"a": torch.ones(2)}, {"gradients": text})
    said_of(Gradients.load, tmp_path / "gradients.safetensors")
    write_tensors(tmp_path / "fisher.safetensors", {"a": torch.ones(())}, {"layer_fisher": text})
    said_of(LayerFisher.load, tmp_path / "fisher.safetensors")

    write_tensors(tmp_path / "block-0000.safetensors", {"a.sigma": torch.ones(2)}, {"block": text})
    blocks = ScoredBlocks(Evidence("f"), [], SpectrumCache(None), FarssConfig(), tmp_path)
    with pytest.warns(UserWarning, match="the block is computed again"):
        assert not blocks.has(0)

    target, cache = find_targets(tiny_llama)[0], SpectrumCache(tmp_path / "spectra")
    cache.get(target, "auto")
    (note,) = (tmp_path / "spectra").glob("*.json")
    (spectrum,) = (tmp_path / "spectra").glob("*.safetensors")
    note.write_bytes(bad)
    with pytest.warns(UserWarning, match="is chosen anew"):
        cache.get(target, "auto")
    write_tensors(spectrum, {"sigma": torch.ones(2), "basis": torch.ones(2, 2)}, {"spectrum": text})
    with pytest.warns(UserWarning, match="is made anew|is damaged"):
        cache.get(target, "auto")


def test_files_are_read_as_documents_everywhere():
    """JSON is parsed by `farss.reading` alone, but for lines of our own processes and what was written a moment ago."""
    pipes = {"patterns.py", "evaluation/verifier.py", "evaluation/verifier_process.py", "experiment/scoring.py"}
    pipes |= {"experiment/asking.py", "storage/files.py"}
    found = set()
    for file in SOURCE.rglob("*.py"):
        name = file.relative_to(SOURCE).as_posix()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in ("load", "loads") and ast.unparse(node.value) == "json":
                found.add(name)
    assert {name for name in found if not name.startswith("sandbox/")} == pipes | {"reading.py"}
