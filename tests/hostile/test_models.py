"""Model folders of every hostile kind are refused by both engines: nothing outside of them is read, nothing fetched."""

from __future__ import annotations

import json
import os
import shutil
import struct
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from farss.errors import FarssError
from farss.model.checkpoint import check_folder, load_folder
from farss.model.lazy import LazyWeights, skeleton

CONFIGS = {
    "no heads": {"num_attention_heads": 0},
    "heads below 0": {"num_attention_heads": -2},
    "heads that do not divide": {"num_attention_heads": 3, "head_dim": None},
    "no groups": {"num_key_value_heads": 0},
    "layers below 0": {"num_hidden_layers": -1},
    "more layers than are stored": {"num_hidden_layers": 9},
    "layers without end": {"num_hidden_layers": 10**7},
    "layers beyond 64 bits": {"num_hidden_layers": 10**30},
    "layers as text": {"num_hidden_layers": "two"},
    "layers null": {"num_hidden_layers": None},
    "a wide model": {"hidden_size": 10**6},
    "a huge vocabulary": {"vocab_size": 10**9},
    "a vocabulary below 0": {"vocab_size": -5},
    "another vocabulary": {"vocab_size": 7},
    "no width": {"hidden_size": 0},
    "another inner width": {"intermediate_size": 10},
    "an unknown activation": {"hidden_act": "evil"},
    "a list for an activation": {"hidden_act": ["silu"]},
    "an epsilon as text": {"rms_norm_eps": "small"},
    "an unknown dtype": {"dtype": "evil"},
    "a function for a dtype": {"dtype": "load"},
    "a number for a dtype": {"dtype": 7},
    "an unknown kind": {"model_type": "evil"},
    "a list for a kind": {"model_type": ["llama"]},
    "no kind": {"model_type": None},
    "an unknown rotation": {"rope_parameters": {"rope_type": "evil", "rope_theta": 1e4}},
    "a rotation as text": {"rope_parameters": "evil"},
    "a rotation by text": {"rope_parameters": {"rope_type": "default", "rope_theta": "x"}},
    "a padding token that is not there": {"pad_token_id": 10**6},
    "a kernel of the hub": {"attn_implementation": "evil/kernel"},
    "a kernel of the hub, by its inner name": {"_attn_implementation": "evil/kernel@v1:run"},
    "a kernel of the hub, in a part": {"text_config": {"_attn_implementation_internal": "evil/kernel"}},
    "a kernel of the hub, by parts": {"attn_implementation": {"": "sdpa", "text_config": "evil/kernel"}},
    "a known kernel of the hub": {"attn_implementation": "kernels-community/flash-attn3"},
    "paged kernels": {"attn_implementation": "paged|evil/kernel"},
    "a list of kernels": {"attn_implementation": ["evil/kernel"]},
    "experts of the hub": {"experts_implementation": "evil/experts"},
    "code of its own": {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}},
    "code of elsewhere": {"model_type": "evil", "auto_map": {"AutoConfig": "evil/repo--evil.Config"}},
    "weights of elsewhere": {"transformers_weights": "../elsewhere/model.safetensors"},
    "weights by an absolute name": {"transformers_weights": "/etc/passwd"},
    "weights by a number": {"transformers_weights": 5},
    "packed weights": {"quantization_config": {"quant_method": "evil"}},
    "packed weights as a list": {"quantization_config": [1]},
}
NAMES = [
    "../elsewhere/model.safetensors",
    "a/../../elsewhere/model.safetensors",
    "/etc/passwd",
    "a\\..\\b",
    "a\0b",
    "",
    5,
]
SHARDS = [*({"model.embed_tokens.weight": name} for name in NAMES), ["a"], "a", None, 5, {}, {"a": ["b"]}, {"a": None}]
DEEP = "[" * 30_000 + "]" * 30_000
TEXTS = {
    "config.json": ["", "[]", "{", '{"a": ' + DEEP + "}", '{"a": ' + "9" * 5_000 + "}", '{"a": 1, "a": 2}'],
    "tokenizer_config.json": ["[]", "{", '{"a": ' + DEEP + "}", '{"fast_tokenizer_files": ["tokenizer.../../x.json"]}'],
    "tokenizer.json": ["", "[]", "{", DEEP, '{"version": "1.0", "model": {"type": "evil"}}', "\xff\xfe"],
    "generation_config.json": ["{", '{"a": ' + DEEP + "}"],
    "special_tokens_map.json": ["{", DEEP],
    "added_tokens.json": ["{", DEEP],
}  # fmt: skip


@pytest.fixture
def hostile(tmp_path, plain) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "model"))


def changed(folder: Path, **settings: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def streamed(folder: Path) -> None:
    model, kind = skeleton(folder)
    weights = LazyWeights(folder, model, kind)
    for _ in weights.read(weights.parameters):
        pass


def turned_away(folder: Path, *engines) -> None:
    for load in engines or (load_folder, streamed):
        started = time.perf_counter()
        with pytest.raises(FarssError) as caught:
            load(folder)
        said = str(caught.value)
        assert time.perf_counter() - started < 30 and len(said) < 2_000
        assert all(char.isprintable() or char in "\n\t" for char in said), ascii(said)


def shut(monkeypatch) -> None:
    """Nothing may be fetched, and no kernel loaded."""
    from transformers.integrations import hub_kernels

    def fetched(*_: object, **__: object) -> None:
        raise SystemExit("something was fetched")

    monkeypatch.setattr(hub_kernels, "load_and_register_attn_kernel", fetched, raising=False)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)


@pytest.mark.case("hostile model folders end in tracebacks, or name code that would be fetched")
@pytest.mark.parametrize("name", CONFIGS)
def test_hostile_configurations_are_refused(hostile, monkeypatch, name):
    shut(monkeypatch)
    changed(hostile, **CONFIGS[name])
    turned_away(hostile, load_folder)


@pytest.mark.parametrize("name", [name for name in CONFIGS if "hub" in name or "kernel" in name or "weights" in name])
def test_what_reaches_out_is_refused_by_the_streamed_engine_too(hostile, monkeypatch, name):
    shut(monkeypatch)
    changed(hostile, **CONFIGS[name])
    turned_away(hostile, streamed)


@pytest.mark.parametrize("value", [None, "eager", "sdpa", {"": "eager"}])
def test_implementations_that_are_here_are_taken(hostile, value):
    changed(hostile, attn_implementation=value)
    assert load_folder(hostile)[0] is not None


@pytest.mark.case("shards of a weight index that lie outside of the folder are read")
@pytest.mark.parametrize("place", range(len(SHARDS)))
def test_shards_lie_in_the_folder(hostile, tmp_path, place):
    (tmp_path / "elsewhere").mkdir()
    shutil.move(hostile / "model.safetensors", tmp_path / "elsewhere" / "model.safetensors")
    index = hostile / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": SHARDS[place]}))
    turned_away(hostile)


def test_links_of_a_cache_are_followed(plain, tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    shutil.copytree(plain, blobs)
    snapshot.mkdir(parents=True)
    weights = load_file(blobs / "model.safetensors")
    save_file(weights, blobs / "shard", metadata={"format": "pt"})
    (blobs / "model.safetensors").unlink()
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    (snapshot / "model-00001-of-00001.safetensors").symlink_to("../../blobs/shard")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "model-00001-of-00001.safetensors")}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    streamed(snapshot)
    assert load_folder(snapshot)[0] is not None


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in TEXTS.items() for text in texts])
def test_hostile_texts_are_refused(hostile, name, text):
    (hostile / name).write_bytes(text.encode("latin-1"))
    turned_away(hostile, load_folder)


def _header(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


WEIGHTS = {
    "empty": b"",
    "text": b"only words, and no weights at all",
    "brackets": _header(b"[" * 50_000),
    "digits": _header(b'{"a": ' + b"9" * 5_000 + b"}"),
    "a header without end": struct.pack("<Q", 2**63),
    "offsets beyond the file": _header(b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}'),
    "a shape beyond memory": _header(b'{"a": {"dtype": "F32", "shape": [99999999, 99999999], "data_offsets": [0, 0]}}'),
    "twice": _header(b'{"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}, "a": 1}'),
    "no tensor": _header(b"{}"),
    "an unknown dtype": _header(b'{"a": {"dtype": "EVIL", "shape": [1], "data_offsets": [0, 4]}}') + b"0000",
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_hostile_weights_are_refused(hostile, name):
    (hostile / "model.safetensors").write_bytes(WEIGHTS[name])
    turned_away(hostile)


@pytest.mark.parametrize("change", ["shape", "name", "missing", "NaN"])
def test_weights_that_do_not_fit_are_refused(hostile, change):
    weights = load_file(hostile / "model.safetensors")
    key = "model.layers.0.mlp.up_proj.weight"
    weight = weights.pop(key)
    changed_to = {"shape": {key: torch.zeros(3, 5)}, "name": {"x": weight}, "NaN": {key: weight * float("nan")}}
    save_file(weights | changed_to.get(change, {}), hostile / "model.safetensors", metadata={"format": "pt"})
    turned_away(hostile)


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "generation_config.json", "notes.txt"]
)
def test_pipes_are_not_waited_for(hostile, name):
    (hostile / name).unlink(missing_ok=True)
    os.mkfifo(hostile / name)
    turned_away(hostile)


def test_the_sound_one_loads(plain):
    check_folder(plain)
    streamed(plain)
    assert load_folder(plain)[0] is not None


def _gguf(tensors: int, entries: int, rest: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries) + rest


def _entry(name: bytes, rest: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name + rest


KIND = b"general.architecture"
GGUF = [
    b"",
    b"GGUF",
    b"GGUF" + b"\xff" * 60,
    _gguf(2**62, 0),
    _gguf(0, 2**62),
    _gguf(0, 0),
    _gguf(0, 0, version=99),
    _gguf(1, 1, version=1),
    _gguf(0, 1, struct.pack("<Q", 2**60) + KIND),
    _gguf(0, 1, _entry(b"\xff\xfe\xfd\xfc", struct.pack("<IQ", 8, 3) + b"abc")),
    _gguf(0, 1, _entry(b"name", struct.pack("<IIQ", 9, 9, 2**40))),
    _gguf(0, 1, _entry(KIND, struct.pack("<IQ", 8, 4) + b"evil")),
    _gguf(0, 1, _entry(KIND, struct.pack("<IQ", 8, 5) + b"llama")),
    _gguf(0, 1, _entry(KIND, struct.pack("<II", 4, 7))),
    _gguf(1, 0, _entry(b"a", struct.pack("<I", 2**31))),
    _gguf(1, 0, _entry(b"a", struct.pack("<IQIQ", 1, 2**60, 0, 2**60))),
    b"FUGG" + struct.pack(">IQQ", 3, 0, 0),
    b"GGUF" + struct.pack(">IQQ", 3, 1, 1),
    b"PK\x03\x04 a zip file",
    b"{}",
    b"\x00" * 4096,
]


@pytest.mark.parametrize("place", range(len(GGUF)))
def test_hostile_gguf_files_are_refused(tmp_path, monkeypatch, place):
    from farss.model.sources import resolve

    monkeypatch.setenv("FARSS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model.gguf").write_bytes(GGUF[place])
    turned_away(tmp_path / "model.gguf", lambda path: resolve(str(path)))
