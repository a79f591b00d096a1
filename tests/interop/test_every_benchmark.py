"""Every name that `farss eval --tasks` takes, run on the real files with a tiny random model and a few rows."""

from __future__ import annotations

import functools
import json
import math

import pytest
import torch

from farss.config import Recipe
from farss.evaluation.generation import Ending
from farss.evaluation.harness import run_tasks
from farss.experiment import scoring
from farss.experiment.listing import list_tasks

pytestmark = pytest.mark.slow

LIMIT = 3
CAP = 8
LONGEST = 2048
ANSWERED = 2
TRAINING_ONLY = ("alpaca", "metamathqa", "metamathqa_substitute")
ENCODERS = "glue_"
"""How the names begin that train a head on an encoder; they have tests of their own."""

NAMES = [row["name"] for row in list_tasks() if row["name"] not in TRAINING_ONLY]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory, tiny_tokenizer):
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("model")
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=LONGEST,
        initializer_range=0.1,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def few_words(monkeypatch):
    """Answers of a few tokens, whoever asks for them."""
    of = Ending.of.__func__
    monkeypatch.setattr(
        Ending,
        "of",
        classmethod(lambda cls, model, tokenizer, stop, most: of(cls, model, tokenizer, stop, min(most, CAP))),
    )
    monkeypatch.setattr(scoring, "run_tasks", functools.partial(run_tasks, max_new_tokens=CAP))


@pytest.mark.parametrize("name", NAMES)
def test_it_runs(name, model_folder, shared_data, tmp_path, few_words, monkeypatch, request):
    if name.startswith(ENCODERS):
        pytest.skip("asks encoders")
    if name.startswith("lm-eval:"):
        pytest.importorskip("lm_eval")
    if name == "lm-eval:ifeval":
        import nltk

        monkeypatch.setattr(nltk.data, "path", [str(request.getfixturevalue("punkt_tab").parents[1])])
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    recipe = Recipe().override(
        {
            "model.name": str(model_folder),
            "data.data_dir": str(shared_data),
            "data.max_length": LONGEST,
            "eval.knowledge_rows": LIMIT,
            "eval.task_rows": LIMIT,
            "eval.generate_rows": ANSWERED,
            "eval.max_new_tokens": CAP,
        }
    )
    found = scoring.evaluate(recipe, (name,), tmp_path / "out")
    assert found["scores"]
    for key, score in found["scores"].items():
        assert math.isfinite(score["value"]), key
        assert score["stderr"] is None or math.isfinite(score["stderr"]), key
        whole = key.startswith("lm-eval/")  # the rows of a group are those of its members
        assert score["n"] % LIMIT == 0 if whole else 1 <= score["n"] <= LIMIT, key
    kept = [json.loads(file.read_text()) for file in (tmp_path / "out").glob("*-samples.json")]
    assert all(len(samples) == LIMIT for each in kept for samples in each.values()) or name.startswith("lm-eval:")
