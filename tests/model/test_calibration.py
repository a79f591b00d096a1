"""Rows to ids and padded batches: what is kept, cut, masked and supervised."""

from __future__ import annotations

import pytest
import torch

from farss.errors import DataError
from farss.model.calibration import Batch, Example, batches, data_fingerprint, pad_token


def test_a_tokenizer_with_padding_pads_with_it(tiny_tokenizer):
    assert pad_token(tiny_tokenizer) == tiny_tokenizer.pad_token_id


def test_padding_falls_back_to_the_end_token():
    class Padless:
        pad_token_id, eos_token_id = None, 7

    assert pad_token(Padless()) == 7


def examples(*lengths):
    return [Example(tuple(range(10, 10 + n - 2)), (50, 51)) for n in lengths]


@pytest.mark.parametrize("side", ["left", "right"])
def test_masks_and_labels_mark_tokens_and_responses(side):
    (batch,) = batches(examples(5, 3), batch_tokens=20, pad_id=0, side=side)
    assert batch.input_ids.dtype == torch.int64
    for row, length in enumerate((5, 3)):
        real = batch.attention_mask[row].bool()
        assert int(real.sum()) == length
        assert batch.input_ids[row][real].tolist() == [*range(10, 10 + length - 2), 50, 51]
        assert batch.labels[row][real].tolist() == [-100] * (length - 2) + [50, 51]
        assert bool((batch.labels[row][~real] == -100).all()) and bool((batch.input_ids[row][~real] == 0).all())
        assert batch.input_ids[row][batch.supervised[row]].tolist() == [10 + length - 3, 50]
    assert bool(batch.attention_mask[1, 0]) == (side == "right")
    assert batch.tokens == 8


def test_batches_hold_at_most_the_tokens_asked_for():
    made = batches(examples(3, 9, 4, 8, 3, 20), batch_tokens=16, pad_id=0)
    assert [tuple(b.input_ids.shape) for b in made] == [(1, 20), (1, 9), (2, 8), (2, 3)]


def test_the_given_order_can_be_kept():
    made = batches(examples(3, 9, 4), batch_tokens=18, pad_id=0, sort=False)
    assert [b.attention_mask.sum(1).tolist() for b in made] == [[3, 9], [4]]


def test_widths_round_up_and_sequences_are_limited():
    made = batches(examples(3, 9, 4), batch_tokens=100, pad_id=0, pad_to=8, max_sequences=2)
    assert [tuple(b.input_ids.shape) for b in made] == [(2, 16), (1, 8)]


def test_no_examples_are_refused():
    with pytest.raises(DataError, match="no examples"):
        batches([], batch_tokens=8, pad_id=0)


def test_the_fingerprint_follows_every_token():
    one = data_fingerprint(examples(3, 9), seed=1)
    assert {key: one[key] for key in ("rows", "tokens", "supervised_tokens", "seed")} == {
        "rows": 2,
        "tokens": 12,
        "supervised_tokens": 4,
        "seed": 1,
    }
    moved = [Example((10, 50), (51,)), *examples(9)]  # the same ids, split elsewhere
    others = [data_fingerprint(given, 1)["sha256"] for given in (moved, examples(9, 3))]
    assert len({one["sha256"], *others}) == 3


def test_turns_learned_apart_are_labelled_where_they_stand():
    example = Example.marked([10, 11, 12, 13, 14, 15], [False, True, True, False, False, True])
    assert (example.prompt_ids, example.response_ids, len(example)) == ((10, 13, 14), (11, 12, 15), 6)
    assert example.ids == (10, 11, 12, 13, 14, 15) and example.labels == (-100, 11, 12, -100, -100, 15)
    assert list(example.answers()) == [((10,), (11, 12)), ((10, 11, 12, 13, 14), (15,))]
    assert example.before_answer == (10, 11, 12, 13, 14)
    (batch,) = batches([example, Example((1,), (2, 3))], batch_tokens=20, pad_id=0)
    assert batch.input_ids[0].tolist() == list(example.ids) and batch.labels[0].tolist() == list(example.labels)
    joined = Example((10, 13, 14), (11, 12, 15))
    assert data_fingerprint([example], 0)["sha256"] != data_fingerprint([joined], 0)["sha256"]
    assert Example.marked([1, 2], [False, True]) == Example((1,), (2,))


def test_a_mapping_becomes_a_batch():
    ids = torch.tensor([[5, 6, 7]])
    batch = Batch.of({"input_ids": ids, "labels": ids})
    assert torch.equal(batch.attention_mask, torch.ones_like(ids)) and Batch.of(batch) is batch


@pytest.mark.parametrize("labels", [{}, {"labels": torch.zeros(1, 2)}], ids=["missing", "short"])
def test_a_mapping_that_is_no_batch_is_refused(labels):
    with pytest.raises(DataError, match="batch"):
        Batch.of({"input_ids": torch.zeros(1, 3)} | labels)
