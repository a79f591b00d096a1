"""`farss init` killed at random moments ends, when it is run again, with the bits of an uninterrupted run."""

from __future__ import annotations

import itertools
import multiprocessing
import random
import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import killed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="uses the fork server")


@pytest.fixture
def recipe(tmp_path, tiny_tokenizer, monkeypatch):
    from transformers import LlamaConfig, LlamaForCausalLM

    monkeypatch.setenv("FARSS_CACHE", str(tmp_path / "cache"))
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.1,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    rows = "".join(
        f'{{"prompt": "What is {a} + {b}?", "completion": "{a + b}."}}\n' for a in range(8) for b in range(8)
    )
    (tmp_path / "rows.jsonl").write_text(rows)
    return {
        "model": {"name": str(tmp_path / "model")},
        "data": {"task": str(tmp_path / "rows.jsonl"), "calibration_rows": 64, "max_length": 64},
        "init": {"rank": 4, "r_avg": 2, "r_max": 4, "shallow_layers": 2, "batch_tokens": 128},
    }


def content(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def begin(recipe, out, engine):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["farss.experiment.initialisation.initialising"])
    process = context.Process(target=killed.initialise_in, args=(recipe, str(out), engine))
    process.start()
    return process


@pytest.mark.parametrize("rows", [64, "auto"])
@pytest.mark.parametrize("engine", ["resident", "streamed"])
@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_with_the_same_bits(recipe, tmp_path, engine, kills, rows):
    recipe["data"]["calibration_rows"] = rows
    assert begin_and_wait(recipe, tmp_path / "warm", engine) == 0
    started = time.perf_counter()
    assert begin_and_wait(recipe, tmp_path / "whole", engine) == 0
    lasts = time.perf_counter() - started
    chance, struck = random.Random(kills), 0
    runs = itertools.count()
    while struck < kills:
        out = tmp_path / f"out-{next(runs)}"
        done = False
        while not done:
            process = begin(recipe, out, engine)
            process.join(chance.uniform(0.0, lasts) if struck < kills else None)
            if process.exitcode is None:
                process.kill()
                process.join()
                struck += 1
                done = out.exists()  # killed between the last rename and the end
            else:
                assert process.exitcode == 0
                done = True
        assert content(out) == content(tmp_path / "whole")
        assert begin_and_wait(recipe, out, engine) == 1  # a finished folder is refused, and nothing lies beside it
        assert not out.with_name(f".{out.name}.work").exists()


def begin_and_wait(recipe, out, engine):
    process = begin(recipe, out, engine)
    process.join()
    return process.exitcode
