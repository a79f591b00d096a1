"""Adapter folders of every hostile kind are refused as such: no error of PEFT, no hang, no import of what they name."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from farss.adapters.files import load_adapter
from farss.errors import AdapterError, FarssError
from farss.experiment.subjects import any_adapter

NEVER = "(([a-z._0-9]+)+)+!"
DEEP = "[" * 30_000 + "]" * 30_000

CONFIGS = {
    "rank 0": {"r": 0},
    "rank below 0": {"r": -4},
    "rank as text": {"r": "4"},
    "half a rank": {"r": 4.5},
    "rank true": {"r": True},
    "rank null": {"r": None},
    "rank of a thousand million": {"r": 10**9},
    "rank beyond 64 bits": {"r": 10**30},
    "another rank": {"r": 8},
    "list for a rank": {"r": [4]},
    "alpha as text": {"lora_alpha": "8"},
    "alpha null": {"lora_alpha": None},
    "alpha beyond floats": {"lora_alpha": 10**299},
    "dropout 2": {"lora_dropout": 2.0},
    "dropout below 0": {"lora_dropout": -0.5},
    "dropout as text": {"lora_dropout": "much"},
    "no target": {"target_modules": []},
    "a number for targets": {"target_modules": 5},
    "numbers for targets": {"target_modules": [1, 2]},
    "targets null": {"target_modules": None, "peft_type": "LORA", "target_parameters": 5},
    "targets that are not there": {"target_modules": ["wq", "wv"]},
    "targets that are no linears": {"target_modules": ["input_layernorm"]},
    "targets that are blocks": {"target_modules": ["layers"]},
    "targets that never match": {"target_modules": f"^{NEVER}$"},
    "targets that never match, the other way": {"target_modules": "(.*.*)*(a|a)*!$"},
    "targets that are no pattern": {"target_modules": "(((q_proj"},
    "targets of brackets": {"target_modules": "(" * 5_000 + "q" + ")" * 5_000},
    "exclusions that never match": {"exclude_modules": NEVER},
    "exclusions that are no pattern": {"exclude_modules": "*"},
    "ranks that never match": {"rank_pattern": {NEVER: 4}},
    "ranks that are no pattern": {"rank_pattern": {"(*)": 4}},
    "ranks as text": {"rank_pattern": {"q_proj": "4"}},
    "ranks of 0": {"rank_pattern": {"q_proj": 0}},
    "ranks as a list": {"rank_pattern": [4]},
    "huge ranks": {"rank_pattern": {"q_proj": 10**8}},
    "alphas that never match": {"alpha_pattern": {NEVER: 4}},
    "alphas as text": {"alpha_pattern": {"q_proj": "x"}},
    "saved modules that never match": {"modules_to_save": [NEVER]},
    "saved modules without tensors": {"modules_to_save": ["lm_head"]},
    "saved modules as a number": {"modules_to_save": 5},
    "layers that are not there": {"layers_to_transform": [99]},
    "layers as text": {"layers_to_transform": ["one"]},
    "layers by a pattern that never matches": {"layers_to_transform": [0], "layers_pattern": f"(([a-z]+)+)+{NEVER}"},
    "trained tokens without tensors": {"trainable_token_indices": [1, 2]},
    "trained tokens that are not there": {"trainable_token_indices": [10**6]},
    "trained tokens as text": {"trainable_token_indices": ["a"]},
    "another task": {"task_type": "EVIL"},
    "a number for a task": {"task_type": 7},
    "no kind": {"peft_type": None},
    "an unknown kind": {"peft_type": "EVIL"},
    "a list for a kind": {"peft_type": ["LORA"]},
    "another kind": {"peft_type": "PREFIX_TUNING"},
    "biases of all": {"bias": "evil"},
    "biases as a number": {"bias": 3},
    "DoRA without magnitudes": {"use_dora": True},
    "DoRA as text": {"use_dora": "yes"},
    "biases of the adapter": {"lora_bias": True},
    "a start that is none": {"init_lora_weights": "evil"},
    "a start with a package": {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}},
    "a start as a number": {"init_lora_weights": 3},
    "a start of rounds": {"init_lora_weights": "pissa_niter_99999999999"},
    "code by Megatron": {"megatron_config": {"a": 1}, "megatron_core": "antigravity"},
    "code by its own name": {"megatron_core": "this"},
    "a configuration for Megatron": {"megatron_config": {"tensor_model_parallel_size": 2}},
    "replicated layers that are not there": {"layer_replication": [[0, 10**6]]},
    "replicated layers without end": {"layer_replication": [[0, 2]] * 100_000},
    "replicated layers as text": {"layer_replication": "0-2"},
    "a dictionary for a base": {"base_model_name_or_path": {"a": 1}},
    "experts of arrows": {"arrow_config": {"top_k": 0}},
    "velora": {"velora_config": {"evil": 1}},
    "tokens that call": {"alora_invocation_tokens": "all"},
    "transposed": {"fan_in_fan_out": "maybe"},
    "nested": {"auto_mapping": {"base_model_class": {"a": {"b": 1}}, "parent_library": 5}, "r": {}},
}
TEXTS = {
    "empty": "",
    "a list": "[]",
    "broken": '{"peft_type": "LORA", ',
    "deep": '{"peft_type": "LORA", "r": ' + DEEP + "}",
    "digits": '{"peft_type": "LORA", "r": ' + "9" * 5_000 + "}",
    "NaN": '{"peft_type": "LORA", "lora_alpha": NaN}',
    "infinite": '{"peft_type": "LORA", "lora_alpha": Infinity}',
    "beyond floats": '{"peft_type": "LORA", "r": 4, "lora_alpha": 1e999}',
    "twice": '{"peft_type": "LORA", "r": 4, "r": 8}',
    "half a character": '{"peft_type": "LORA", "base_model_name_or_path": "\\ud800"}',
    "escapes": '{"peft_type": "\\u001b[2J\\u001b]0;owned\\u0007"}',
    "escapes in broken JSON": '{"\x1b[2J',
    "not UTF-8": "\xff\xfe",
}


@pytest.fixture(scope="module")
def base(plain):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(plain)


@pytest.fixture(scope="module")
def sound(tmp_path_factory, plain) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("sound") / "adapter"
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(plain),
        LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def hostile(tmp_path, sound) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "adapter"))


def changed(folder: Path, **settings: object) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def turned_away(load, base, folder: Path) -> None:
    """`load` raises one of our errors, soon and shortly; whatever was put on the base is taken off again."""
    started, imported = time.perf_counter(), set(sys.modules)
    with pytest.raises(FarssError) as caught:
        load(base, folder)
    said = str(caught.value)
    assert time.perf_counter() - started < 30 and len(said) < 2_000
    assert all(char.isprintable() or char in "\n\t" for char in said), ascii(said)
    assert not {"antigravity", "this"} & (set(sys.modules) - imported)


def fresh(base):
    """A copy of the base: what PEFT does to a model before it raises stays on it."""
    import copy

    return copy.deepcopy(base)


@pytest.mark.case("hostile adapters end in tracebacks of PEFT, or hang")
@pytest.mark.parametrize("name", CONFIGS)
def test_hostile_settings_are_refused(base, hostile, name):
    changed(hostile, **CONFIGS[name])
    turned_away(load_adapter, fresh(base), hostile)


@pytest.mark.parametrize("name", ["another kind", "an unknown kind", "targets that never match", "rank below 0"])
@pytest.mark.parametrize("kind", ["LORA", "IA3", "LOHA"])
def test_hostile_settings_of_other_kinds_are_refused(base, hostile, name, kind):
    changed(hostile, **{"peft_type": kind, **CONFIGS[name]})
    turned_away(any_adapter, fresh(base), hostile)


@pytest.mark.parametrize("name", TEXTS)
def test_hostile_configurations_are_refused(base, hostile, name):
    (hostile / "adapter_config.json").write_bytes(TEXTS[name].encode("latin-1"))
    for load in (load_adapter, any_adapter):
        turned_away(load, base, hostile)


def _tensors(change):
    def act(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, metadata={"format": "pt"})

    return act


def _first(tensors) -> str:
    return sorted(tensors)[0]


def _bytes(make):
    def act(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        file.write_bytes(make(file.read_bytes()))

    return act


def _header(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _fifo(name):
    def act(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return act


class Ran:
    """Pickles that leave a mark when they are loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


def _pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Ran(folder / "ran")))


FOLDERS = {
    "a tensor is missing": _tensors(lambda t: t.pop(_first(t))),
    "a tensor too many": _tensors(lambda t: t.update({"base_model.model.extra.lora_A.weight": torch.zeros(4, 4)})),
    "tensors of other names": _tensors(lambda t: [t.update({f"x.{k}": t.pop(k)}) for k in list(t)]),
    "a tensor of another shape": _tensors(lambda t: t.update({_first(t): torch.zeros(4, 5)})),
    "a tensor of no dimension": _tensors(lambda t: t.update({_first(t): torch.zeros(())})),
    "an empty tensor": _tensors(lambda t: t.update({_first(t): torch.zeros(0)})),
    "no tensor": _tensors(lambda t: t.clear()),
    "names with escapes": _tensors(lambda t: t.update({"\x1b[2J": torch.zeros(1)})),
    "cut short": _bytes(lambda old: old[: len(old) // 2]),
    "no header": _bytes(lambda old: b""),
    "a header longer than the file": _bytes(lambda old: struct.pack("<Q", 2**62) + old[8:]),
    "a header of brackets": _bytes(lambda old: _header(b"[" * 50_000)),
    "a header of digits": _bytes(lambda old: _header(b'{"a": ' + b"9" * 5_000 + b"}")),
    "offsets beyond the file": _bytes(
        lambda old: _header(b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}')
    ),
    "text for weights": _bytes(lambda old: b"These are no weights at all, only words."),
    "pickled weights": _pickled,
    "a pipe for weights": _fifo("adapter_model.safetensors"),
    "a pipe for a configuration": _fifo("adapter_config.json"),
    "a pipe for a plan": _fifo("plan.json"),
    "a broken plan": lambda folder: (folder / "plan.json").write_text("[" * 9_000),
    "no configuration": lambda folder: (folder / "adapter_config.json").unlink(),
    "nothing": lambda folder: [file.unlink() for file in folder.iterdir()],
    "a link to itself": lambda folder: [
        (folder / "adapter_config.json").unlink(),
        (folder / "adapter_config.json").symlink_to("adapter_config.json"),
    ],
}


@pytest.mark.parametrize("name", FOLDERS)
def test_hostile_folders_are_refused(base, hostile, name):
    FOLDERS[name](hostile)
    for load in (load_adapter, any_adapter):
        turned_away(load, fresh(base), hostile)
    assert not (hostile / "ran").exists()


def test_the_sound_one_loads(base, sound):
    for load in (load_adapter, any_adapter):
        assert load(fresh(base), sound) is not None


def test_patterns_that_end_are_obeyed(base, hostile):
    changed(hostile, target_modules=r".*\.(q|v)_proj", rank_pattern={r".*\.layers\.\d+\..*": 4})
    assert load_adapter(fresh(base), hostile) is not None


@pytest.mark.parametrize("name", ["rank 0", "code by Megatron", "targets that never match"])
def test_every_verb_refuses_them(refused, plain, hostile, tmp_path, name):
    changed(hostile, **CONFIGS[name])
    named = ("--model", plain, "--adapter", hostile, "--out")
    refused("eval", "--tasks", "facts", "--knowledge-rows", "1", *named, tmp_path / "e")
    refused("export", *named, tmp_path / "x")


def test_the_refusal_is_an_adapter_error(base, hostile):
    changed(hostile, r=0)
    with pytest.raises(AdapterError, match="impossible setting"):
        load_adapter(base, hostile)
