"""Logits at chosen positions are those of the whole, and the head computes no others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from farss.errors import ModelError
from farss.model.logits import head_reads, logits_at


@pytest.fixture
def asked() -> tuple[torch.Tensor, torch.Tensor]:
    """Ids [2, 5], and the positions that are wanted of them."""
    ids = torch.arange(10).reshape(2, 5)
    rows = torch.zeros(2, 5, dtype=torch.bool)
    rows[0, 1] = rows[0, 4] = rows[1, 2] = True
    return ids, rows


def test_they_are_those_of_the_whole_and_the_head_reads_no_others(tiny_llama, asked):
    ids, rows = asked
    head, read = tiny_llama.get_output_embeddings(), []
    handle = head.register_forward_hook(lambda module, args, output: read.append(tuple(output.shape[:-1])))
    with torch.no_grad():
        chosen = logits_at(tiny_llama, head, rows, input_ids=ids)
        handle.remove()
        whole = tiny_llama(input_ids=ids).logits[rows]
    assert read == [(1, 3)]
    torch.testing.assert_close(chosen, whole)


def test_a_model_without_a_head_of_its_own_is_read_whole(tiny_llama, asked):
    ids, rows = asked
    with torch.no_grad():
        whole = logits_at(tiny_llama, None, rows, input_ids=ids)
        torch.testing.assert_close(whole, logits_at(tiny_llama, nn.Identity(), rows, input_ids=ids))
        torch.testing.assert_close(whole, tiny_llama(input_ids=ids).logits[rows])


def test_a_head_reads_nothing_where_nothing_is_wanted(tiny_llama, asked):
    ids, rows = asked
    with torch.no_grad(), head_reads(tiny_llama.get_output_embeddings(), torch.zeros_like(rows)):
        assert tiny_llama(input_ids=ids).logits.shape[:-1] == (1, 0)


def test_logits_of_the_whole_text_are_refused(asked):
    class Pooled(nn.Module):
        def forward(self, input_ids):
            return type("Output", (), {"logits": torch.zeros(2, 4)})

    ids, rows = asked
    with pytest.raises(ModelError, match="no next-token logits"):
        logits_at(Pooled(), None, rows, input_ids=ids)
