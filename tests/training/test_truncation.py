"""What KaSA drops of a model that needs it is said before the first step; other starts are the base's own."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch

from farss.adapters.apply import apply
from farss.config import FarssConfig
from farss.maths.spectrum import decompose
from farss.methods import Evidence, get_method
from farss.methods.kasa.aid import KasaAid, StartWarning
from farss.methods.kasa.settings import KasaConfig
from farss.model.sources import fingerprint
from farss.model.targets import find_targets, weight_matrix
from farss.training.sft import train

from .conftest import largest_difference, weights


@pytest.fixture
def learned(tiny_llama, tiny_tokenizer, rows, settings):
    """A model that knows the rows, and so has something to lose."""
    report = train(tiny_llama, tiny_tokenizer, rows, settings(epochs=15.0), None, trains="weights")
    assert report.curve[-1][1] < 0.5 * report.curve[0][1]
    return tiny_llama


def adapted(model, method: str = "kasa", rank: int = 12, **changes):
    evidence = Evidence(fingerprint(model), lambda target: decompose(weight_matrix(target)))
    config = FarssConfig(rank=rank, own=(KasaConfig(**changes),))
    return apply(model, get_method(method).plan(find_targets(model), evidence, config))


def said(model, tokenizer, rows, settings, out=None, **changes) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(model, tokenizer, rows, settings(epochs=1.0, **changes), out)
    return [str(w.message) for w in caught if w.category is StartWarning]


@pytest.mark.parametrize(
    ("dtype", "precision"),
    [
        (torch.float32, "float32"),
        (torch.float32, "bfloat16"),
        (torch.bfloat16, "float32"),
        (torch.bfloat16, "bfloat16"),
    ],
)
def test_what_is_dropped_of_a_model_that_needs_it_is_said(learned, tiny_tokenizer, rows, settings, dtype, precision):
    (message,) = said(adapted(learned.to(dtype)), tiny_tokenizer, rows, settings, precision=precision)
    factor = float(message.split("by ")[1].split(":")[0])
    assert factor > 1.1 and "4 rows" in message and "init.kasa.drop" in message


@pytest.mark.parametrize("changes", [{"drop": "nothing"}, {"method": "pissa"}, {"method": "lora"}])
def test_a_start_at_the_base_is_not_worth_a_word(learned, tiny_tokenizer, rows, settings, changes):
    assert said(adapted(learned, **changes), tiny_tokenizer, rows, settings) == []


def test_a_model_that_has_learned_nothing_loses_nothing(tiny_llama, tiny_tokenizer, rows, settings):
    assert said(adapted(tiny_llama, rank=2), tiny_tokenizer, rows, settings) == []


def test_it_is_said_once_of_a_training_that_goes_on(learned, tiny_tokenizer, rows, settings, tmp_path):
    arguments = (tiny_tokenizer, rows, settings, tmp_path)
    assert len(said(adapted(copy.deepcopy(learned)), *arguments, save_steps=1)) == 1
    assert said(adapted(copy.deepcopy(learned)), *arguments, save_steps=1) == []


def test_looking_at_the_start_changes_no_bit(learned, tiny_tokenizer, rows, settings, monkeypatch):
    looked, blind = adapted(copy.deepcopy(learned)), adapted(copy.deepcopy(learned))
    assert said(looked, tiny_tokenizer, rows, settings)
    monkeypatch.setattr(KasaAid, "check_start", lambda *_: None)
    assert not said(blind, tiny_tokenizer, rows, settings)
    assert largest_difference(weights(looked, trainable=True), weights(blind, trainable=True)) == 0.0
