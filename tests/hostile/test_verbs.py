"""Every verb with a model, a data file and an adapter of every wrong kind: refused by what it is, never a traceback."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import torch

SOURCE = Path(__file__).parents[2] / "src" / "farss"


@pytest.fixture(scope="module")
def things(tmp_path_factory, plain, tiny_tokenizer) -> dict[str, Path]:
    """One of everything that can be named in the wrong place."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, BertConfig, BertForMaskedLM, ViTConfig, ViTModel

    place = tmp_path_factory.mktemp("things")
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng(devices=[]):
        BertForMaskedLM(BertConfig(vocab_size=len(tiny_tokenizer), **sizes)).save_pretrained(place / "encoder")
        ViTModel(ViTConfig(image_size=16, patch_size=8, **sizes)).save_pretrained(place / "vision")
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(plain), LoraConfig(r=2, target_modules=["q_proj"]))
        model.save_pretrained(place / "adapter")
    tiny_tokenizer.save_pretrained(place / "encoder")
    tiny_tokenizer.save_pretrained(place / "vision")
    (place / "empty").mkdir()
    (place / "text.txt").write_text("only words\n")
    (place / "recipe.yaml").write_text("name: a\n")
    rows = [{"prompt": f"What is {n}?", "completion": str(n)} for n in range(8)]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "other.jsonl").write_text('{"unheard": 1, "of": "fields"}\n' * 8)
    (place / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    return {file.name: file for file in place.iterdir()} | {"model": plain, "missing": place / "missing"}


NO_MODEL = ["encoder", "vision", "adapter", "empty", "text.txt", "recipe.yaml", "rows.jsonl", "image.png", "missing"]
NO_ADAPTER = ["encoder", "vision", "model", "empty", "text.txt", "recipe.yaml", "rows.jsonl", "image.png", "missing"]
NO_DATA = ["model", "adapter", "empty", "text.txt", "recipe.yaml", "other.jsonl", "image.png", "missing"]
SMALL = ("--set", "init.rank=2", "--set", "init.r_avg=2", "--set", "init.r_max=2", "--set", "init.shallow_layers=1")


@pytest.mark.case("every verb with a model, data or adapter of a wrong kind ends in a traceback")
@pytest.mark.parametrize("name", NO_MODEL)
@pytest.mark.parametrize("verb", ["init", "streamed", "inspect", "eval", "run", "export", "audit", "finetuned"])
def test_no_model(refused, things, tmp_path, verb, name):
    model, rows, out = things[name], things["rows.jsonl"], tmp_path / "out"
    data = ("--data", rows, *SMALL)
    arguments = {
        "init": ("init", "--model", model, *data),
        "streamed": ("init", "--engine", "streamed", "--model", model, *data),
        "inspect": ("inspect", "--model", model, *data),
        "eval": ("eval", "--model", model, "--tasks", "facts", "--knowledge-rows", 1),
        "run": ("run", "--model", model, *data),
        "export": ("export", "--model", model, "--adapter", things["adapter"]),
        "audit": ("audit", "--model", model, "--adapter", things["adapter"], "--knowledge-rows", 1),
        "finetuned": ("audit", "--model", things["model"], "--finetuned", model, "--knowledge-rows", 1),
    }[verb]
    if verb in ("run", "audit", "finetuned") and name in ("encoder", "vision"):
        pytest.skip("found in a process of its own, after seconds")
    refused(*arguments, "--out", out, codes=(1, 2))


@pytest.mark.parametrize("name", NO_ADAPTER)
@pytest.mark.parametrize("verb", ["eval", "export", "audit", "train", "plan"])
def test_no_adapter(refused, things, tmp_path, verb, name):
    adapter, model = things[name], things["model"]
    arguments = {
        "eval": ("eval", "--model", model, "--adapter", adapter, "--tasks", "facts", "--knowledge-rows", 1),
        "export": ("export", "--model", model, "--adapter", adapter),
        "audit": ("audit", "--model", model, "--adapter", adapter, "--knowledge-rows", 1),
        "train": ("train", "--init", adapter, "--data", things["rows.jsonl"]),
        "plan": ("init", "--model", model, "--plan", adapter),
    }[verb]
    refused(*arguments, "--out", tmp_path / "out", codes=(1, 2))


@pytest.mark.parametrize("name", NO_DATA)
@pytest.mark.parametrize("verb", ["init", "inspect", "run", "eval", "text", "statistics", "merge", "compare", "glue"])
def test_no_data(refused, things, tmp_path, verb, name):
    data, model = things[name], things["model"]
    arguments = {
        "init": ("init", "--model", model, "--data", data, *SMALL),
        "inspect": ("inspect", "--model", model, "--data", data, *SMALL),
        "run": ("run", "--model", model, "--data", data, *SMALL),
        "eval": ("eval", "--model", model, "--tasks", data),
        "text": ("audit", "--model", model, "--adapter", things["adapter"], "--text", data),
        "statistics": ("init", "--model", model, "--stats", data, *SMALL),
        "merge": ("merge-stats", data),
        "compare": ("compare", data),
        "glue": ("glue", "--tasks", "rte", "--model", things["encoder"], "--data-dir", data),
    }[verb]
    refused(*arguments, "--out", tmp_path / "out", codes=(1, 2))


PARSERS = {"json", "yaml", "torch", "pickle"}
READERS = {"load", "loads", "safe_load", "full_load", "unsafe_load", "load_all"}
BOUNDARIES = (
    *("config.py", "settings.py", "cli", "adapters", "datasets", "methods"),
    *("model/plan.py", "model/plan_types.py", "model/checkpoint.py", "model/lazy.py", "model/folders.py"),
    *("model/sources.py", "model/heads.py", "model/kinds.py", "statistics/moments.py"),
    "experiment/initialisation/statistics.py",
)


def _parses(node: ast.AST) -> bool:
    named = node.func if isinstance(node, ast.Call) else None
    owner = named.value if isinstance(named, ast.Attribute) and named.attr in READERS else None
    return isinstance(owner, ast.Name) and owner.id in PARSERS


def test_files_of_the_user_are_read_with_limits():
    """No module that reads a file of the user calls a parser itself: `farss.reading` and `farss.yaml_text` do."""
    found = []
    for place in BOUNDARIES:
        for file in [SOURCE / place] if place.endswith(".py") else sorted((SOURCE / place).rglob("*.py")):
            tree = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            found += [f"{file.relative_to(SOURCE)}:{node.lineno}" for node in tree if _parses(node)]
    assert found == []
    assert _parses(ast.parse("json.loads(text)", mode="eval").body)
