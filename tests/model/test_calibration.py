"""Rows to ids and padded batches: what is kept, cut, masked and supervised."""

from __future__ import annotations

import pytest
import torch

from farss.errors import DataError
from farss.model.calibration import Batch, Example, batches, data_fingerprint, encode_rows, pad_token


def formatter(row):
    return row["q"], row["a"]


def encode(rows, tokenizer, max_length=100):
    return encode_rows([{"q": q, "a": a} for q, a in rows], tokenizer, formatter, max_length)


def test_prompt_and_response_are_tokenised_apart_and_closed(tiny_tokenizer):
    (example,) = encode([("ab", "cde")], tiny_tokenizer)
    assert tiny_tokenizer.decode(example.prompt_ids) == "ab"
    assert tiny_tokenizer.decode(example.response_ids) == "cde<eos>"


def test_an_end_that_the_template_wrote_is_not_doubled(tiny_tokenizer):
    (example,) = encode([("ab", "cd<eos>")], tiny_tokenizer)
    assert tiny_tokenizer.decode(example.response_ids) == "cd<eos>"


class WithBos:
    """A tokenizer that opens every text with BOS unless told not to, as Gemma's does."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def __call__(self, text, add_special_tokens=True):
        ids = self.tokenizer(text)["input_ids"]
        return {"input_ids": [self.tokenizer.bos_token_id, *ids] if add_special_tokens else ids}


@pytest.mark.parametrize("prompt", ["ab", "<bos>ab"])
def test_a_prompt_opens_with_one_bos_and_a_response_with_none(tiny_tokenizer, prompt):
    (example,) = encode([(prompt, "cd")], WithBos(tiny_tokenizer))
    assert tiny_tokenizer.decode(example.prompt_ids) == "<bos>ab"
    assert tiny_tokenizer.decode(example.response_ids) == "cd<eos>"


def test_truncation_keeps_the_prompt_and_cuts_the_response(tiny_tokenizer):
    (example,) = encode([("abc", "defgh")], tiny_tokenizer, max_length=5)
    assert (len(example.prompt_ids), tiny_tokenizer.decode(example.response_ids)) == (3, "de")


def test_rows_without_response_are_left_out_with_one_warning(tiny_tokenizer):
    with pytest.warns(UserWarning, match="2 of 3 rows") as caught:
        kept = encode([("a" * 9, "b"), ("a", "b"), ("a" * 10, "b")], tiny_tokenizer, max_length=9)
    assert len(kept) == 1 and len(caught) == 1


def test_no_response_anywhere_is_refused(tiny_tokenizer):
    with pytest.raises(DataError, match="shortest prompt: 9"):
        encode([("a" * 9, "b"), ("a" * 12, "b")], tiny_tokenizer, max_length=8)


def test_no_rows_are_refused(tiny_tokenizer):
    with pytest.raises(DataError, match="no rows"):
        encode([], tiny_tokenizer)


def test_a_tokenizer_without_an_end_is_refused(tiny_tokenizer):
    class Endless:
        eos_token_id, name_or_path = None, "endless"

    with pytest.raises(DataError, match="end-of-sequence"):
        encode([("a", "b")], Endless())
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


def test_a_mapping_becomes_a_batch():
    ids = torch.tensor([[5, 6, 7]])
    batch = Batch.of({"input_ids": ids, "labels": ids})
    assert torch.equal(batch.attention_mask, torch.ones_like(ids)) and Batch.of(batch) is batch


@pytest.mark.parametrize("labels", [{}, {"labels": torch.zeros(1, 2)}], ids=["missing", "short"])
def test_a_mapping_that_is_no_batch_is_refused(labels):
    with pytest.raises(DataError, match="batch"):
        Batch.of({"input_ids": torch.zeros(1, 3)} | labels)
