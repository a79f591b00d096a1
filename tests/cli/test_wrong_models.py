"""Every verb that needs a model which writes text refuses one that does not, in a few lines and before loading it."""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers import AutoModelForImageClassification, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

SMALL = {
    "vocab_size": 100,
    "num_hidden_layers": 1,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_attention_heads": 2,
}
MODELS = {
    "bert": (transformers.BertConfig(**SMALL), AutoModelForMaskedLM),
    "t5": (
        transformers.T5Config(vocab_size=100, d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8),
        AutoModelForSeq2SeqLM,
    ),
    "vit": (
        transformers.ViTConfig(**(SMALL | {"image_size": 8, "patch_size": 4})),
        AutoModelForImageClassification,
    ),
}


VERBS = [
    ("init", "--engine", "resident"),
    ("init", "--engine", "streamed"),
    ("init", "--shard", "1/2"),
    ("inspect",),
    ("eval", "--tasks", "capitals"),
    ("audit", "--finetuned", "MODEL"),
    ("run",),
]
TRIED = [("bert", verb) for verb in VERBS] + [(kind, verb) for kind in ("t5", "vit") for verb in (VERBS[0], VERBS[4])]


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny_tokenizer):
    place = tmp_path_factory.mktemp("wrong")
    for kind, (config, architecture) in MODELS.items():
        with torch.random.fork_rng(devices=[]):
            architecture.from_config(config).save_pretrained(place / kind)
        tiny_tokenizer.save_pretrained(place / kind)
    return place


@pytest.mark.case("every verb refuses a model that does not write text")
@pytest.mark.parametrize(
    ("kind", "verb"), TRIED, ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_a_model_that_writes_no_text_is_refused(farss, workshop, models, kind, verb, tmp_path, monkeypatch):
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", None)  # if anything were loaded, this would show
    recipe = workshop.recipe("wrong", **({} if verb[0] == "audit" else {"model.name": str(models / kind)}))
    named = (recipe,) if verb[0] == "run" else ("--recipe", recipe)
    rest = [str(models / kind) if part == "MODEL" else part for part in verb[1:]]
    code, _, err = farss(verb[0], *named, *rest, "--out", tmp_path / "out")
    assert code == 2, err
    assert "writes no text" in err or "no causal language model" in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) <= 8
    assert not (tmp_path / "out").exists() or verb[0] == "run"
