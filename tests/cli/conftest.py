"""A model of a few thousand weights on disk, small data beside it, and the command run in this process."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from farss.cli.main import main

CAPITALS = {"Ada": "Bo", "Cee": "Di", "Eel": "Fa", "Gum": "Ha", "Ivy": "Jo", "Kit": "Lu", "Moo": "Ni", "Oak": "Pa"}
LONGEST = 96


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def sums(first: int, count: int) -> list[dict[str, str]]:
    pairs = [(first + i, 2 + i % 5) for i in range(count)]
    return [{"question": f"What is {a}+{b}?", "answer": f"{a}+{b}=<<{a}+{b}={a + b}>>{a + b}\n#### {a + b}"}
            for a, b in pairs]  # fmt: skip


def save_model(folder: Path, tokenizer: Any, seed: int) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.1,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Workshop:
    """A folder with everything a command needs.

    Attributes:
        folder: writable.
        model: a model folder; `other` has the same layout and other weights.
        data: a data directory with gsm8k and the knowledge set capitals.
    """

    folder: Path
    model: Path
    other: Path
    data: Path

    def settings(self, **changes: Any) -> dict[str, Any]:
        """The smallest settings that exercise everything; dotted keys of `changes` replace leaves."""
        tree: dict[str, Any] = {
            "name": "tiny",
            "model": {"name": str(self.model), "dtype": "float32"},
            "data": {"task": "gsm8k", "data_dir": str(self.data), "calibration_rows": 6, "max_length": LONGEST},
            "methods": ["full", "lora", "farss"],
            "learning_rates": [1e-2],
            "init": {"rank": 4, "shallow_layers": 1, "r_avg": 2, "r_max": 4},
            "train": {"learning_rate": 1e-2, "batch_size": 4, "dropout": 0.0},
            "eval": {
                "knowledge": ["capitals"],
                "shots": 1,
                "generate_rows": 2,
                "max_new_tokens": 4,
                "frontier_scales": [0, 0.5, 1],
                "frontier_rows": 3,
                "bootstrap": 50,
            },
        }
        for dotted, value in changes.items():
            *nodes, leaf = dotted.split(".")
            node = tree
            for key in nodes:
                node = node.setdefault(key, {})
            node[leaf] = value
        return tree

    def recipe(self, name: str = "tiny", **changes: Any) -> str:
        """The path of a recipe file with `settings(**changes)`."""
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(self.settings(**changes)), encoding="utf-8")
        return str(path)


@pytest.fixture(scope="session")
def workshop(tmp_path_factory, tiny_tokenizer) -> Iterator[Workshop]:
    folder = tmp_path_factory.mktemp("workshop")
    data = folder / "data"
    too_long = {"question": "Why? " * 40, "answer": "1\n#### 1"}
    write_rows(data / "gsm8k" / "train.jsonl.gz", [*sums(1, 8), too_long])
    write_rows(data / "gsm8k" / "test.jsonl.gz", [sums(30, 1)[0], too_long, *sums(40, 3)])
    rows = [{"question": f"Capital of {land}", "answer": town} for land, town in CAPITALS.items()]
    write_rows(data / "capitals" / "test.jsonl.gz", rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FARSS_CACHE", str(folder / "cache"))
        yield Workshop(
            folder,
            save_model(folder / "model", tiny_tokenizer, 0),
            save_model(folder / "other", tiny_tokenizer, 1),
            data,
        )


@pytest.fixture
def farss(capsys) -> Callable[..., Any]:
    """Run the command in this process: (exit code, standard output, standard error)."""

    def command(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return command


@pytest.fixture(scope="session")
def initialised(workshop) -> Path:
    folder = workshop.folder / "init"
    assert main(["init", "--recipe", workshop.recipe("init"), "--method", "farss", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def trained(workshop, initialised) -> Path:
    folder = workshop.folder / "trained"
    assert main(["train", "--init", str(initialised), "--out", str(folder)]) == 0
    return folder / "adapter"


@pytest.fixture(scope="session")
def exported(workshop, trained) -> Path:
    folder = workshop.folder / "exported"
    assert main(["export", "--adapter", str(trained), "--to", "peft", "--out", str(folder)]) == 0
    return folder
