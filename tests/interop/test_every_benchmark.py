"""Every name that `farss eval` and `farss glue` take, run on the real files with tiny random models and a few rows."""

from __future__ import annotations

import functools
import json
import math

import pytest
import torch

from farss.config import Recipe
from farss.evaluation.generation import Ending
from farss.evaluation.harness import run_tasks
from farss.experiment import asking, scoring
from farss.experiment.encoders.classification import GLUE_RECIPE, run_glue
from farss.experiment.listing import list_tasks

pytestmark = pytest.mark.slow

LIMIT = 3
CAP = 8
LONGEST = 2048
ANSWERED = 2
TRAINING_ONLY = ("alpaca", "metamathqa", "metamathqa_substitute")
NAMES = [row["name"] for row in list_tasks() if row["name"] not in TRAINING_ONLY and row["kind"] != "classification"]


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
        classmethod(
            lambda cls, model, tokenizer, stop, most, *rest: of(cls, model, tokenizer, stop, min(most, CAP), *rest)
        ),
    )
    monkeypatch.setattr(asking, "run_tasks", functools.partial(run_tasks, max_new_tokens=CAP))


@pytest.mark.parametrize("name", NAMES)
def test_it_runs(name, model_folder, shared_data, tmp_path, few_words, monkeypatch, request):
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


GLUE = {"cola": (), "sst2": ("adversarial",), "mrpc": (), "rte": ("adversarial",), "stsb": ()}
"""Tasks of GLUE with training rows in the data directory -> what is asked of them beside the validation split."""


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory, tiny_tokenizer):
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("encoder")
    config = BertConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("task", [*GLUE, "qnli"])
def test_it_is_learned_and_asked(task, encoder_folder, shared_data, tmp_path, monkeypatch):
    monkeypatch.setenv("FARSS_CACHE", str(tmp_path / "cache"))
    recipe = GLUE_RECIPE.override(
        {
            "model.name": str(encoder_folder),
            "data.data_dir": str(shared_data),
            "data.train_rows": 16,
            "data.calibration_rows": 8,
            "data.max_length": 32,
            "methods": ["farss"],
            "init.rank": 4,
            "init.r_avg": 2,
            "init.r_max": 3,
            "init.shallow_layers": 1,
            "train.epochs": 1,
            "eval.task_rows": LIMIT,
        }
    )
    source = "rte" if task == "qnli" else None  # the training rows of QNLI are not there
    splits = ("validation", *GLUE.get(task, ("adversarial",)))
    results = run_glue(recipe, [task], tmp_path / "out", splits=splits, train_on=source)
    (entry,) = results["tasks"][task]["methods"]
    for split in splits:
        for metric, score in entry["scores"][split].items():
            assert math.isfinite(score["value"]) and score["n"] == LIMIT, (split, metric)
