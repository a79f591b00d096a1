"""Ids and lengths are held against the model's tables before it runs."""

from __future__ import annotations

import pytest
import torch
from tests.families import SEEING, make

import farss
from farss.errors import DataError
from farss.model.tables import random_words

SETTINGS = farss.FarssConfig(rank=2, r_avg=1, r_max=2, shallow_layers=1)


def batch(ids, mask=None):
    ids = torch.tensor(ids)
    return {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids) if mask is None else mask}


@pytest.mark.case("ids beyond the embeddings are named before the statistics")
def test_a_plan_names_the_row_whose_token_has_no_embedding(tiny_llama):
    with pytest.raises(DataError, match=r"no embedding[\s\S]*batch 1, row 1[\s\S]*id 100"):
        farss.plan(tiny_llama, [batch([[5, 6]]), batch([[5, 6], [7, 100]])], SETTINGS)


def test_padding_without_an_embedding_is_named_too(tiny_llama):
    with pytest.raises(DataError, match=r"id 120 \(padding\)"):
        farss.plan(tiny_llama, [batch([[5, 6, 120]], torch.tensor([[1, 1, 0]]))], SETTINGS)


@pytest.mark.case("texts beyond the position table are named before the statistics")
def test_a_plan_names_the_row_that_is_too_long(tiny_gpt2):
    with pytest.raises(DataError, match=r"longer than the model reads[\s\S]*batch 0, row 0[\s\S]*512[\s\S]*513 tokens"):
        farss.plan(tiny_gpt2, [batch([[5] * 513])], SETTINGS)


@pytest.mark.parametrize("family", [*SEEING, "Llama"])
def test_random_words_are_words(family):
    model = make(family)
    words = random_words(model, (40, 50), seed=0)
    assert words.shape == (40, 50)
    assert int(words.max()) < model.get_input_embeddings().weight.shape[0]
    if family in SEEING:
        assert 97 not in words
    torch.testing.assert_close(words, random_words(model, (40, 50), seed=0))
