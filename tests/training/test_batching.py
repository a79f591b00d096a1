from __future__ import annotations

import pytest

from farss.errors import ConfigError
from farss.training.batching import NEIGHBOURHOOD, WIDTH_MULTIPLE, BatchOrder, PaddedBatch, split_batch


@pytest.mark.parametrize("count", [1, 3, 4, 13, 4 * NEIGHBOURHOOD + 1, 1000])
def test_an_epoch_visits_every_row_once(count):
    order = BatchOrder([1 + (7 * i) % 50 for i in range(count)], batch_size=4, seed=0)
    assert sorted(order) == list(range(count)) and len(order) == count


def test_the_order_depends_on_seed_and_epoch_and_nothing_else():
    lengths = list(range(100))
    first = BatchOrder(lengths, 8, seed=1)
    again, other = list(BatchOrder(lengths, 8, seed=1)), list(BatchOrder(lengths, 8, seed=2))
    start = list(first)
    first.set_epoch(1)
    assert start == again and start != other and start != list(first)


def test_rows_of_a_batch_have_like_lengths():
    lengths = [(37 * i) % 256 for i in range(256)]
    order = list(BatchOrder(lengths, 8, seed=0))
    spreads = [
        max(lengths[i] for i in order[s : s + 8]) - min(lengths[i] for i in order[s : s + 8])
        for s in range(0, len(order), 8)
    ]
    assert max(spreads) <= 8


def test_widths_are_multiples_and_the_first_token_is_not_counted(rows):
    batch = PaddedBatch(pad_id=0)(rows[:5])
    assert batch["input_ids"].shape[1] % WIDTH_MULTIPLE == 0
    assert (batch["labels"][:, 0] == -100).all()
    assert int((batch["labels"] != -100).sum()) == sum(len(row.response_ids) for row in rows[:5])
    assert int(batch["attention_mask"].sum()) == sum(len(row) for row in rows[:5])


@pytest.mark.parametrize(
    ("batch", "micro", "processes", "expected"),
    [(16, None, 1, (8, 2)), (16, None, 4, (4, 1)), (4, 2, 1, (2, 2)), (4, 99, 1, (4, 1)), (12, None, 1, (6, 2))],
)
def test_a_batch_is_split_evenly(batch, micro, processes, expected):
    assert split_batch(batch, micro, processes) == expected


@pytest.mark.parametrize(("batch", "micro", "processes"), [(16, 3, 1), (6, None, 4), (2, None, 4), (4, 0, 1)])
def test_an_uneven_split_is_refused(batch, micro, processes):
    with pytest.raises(ConfigError):
        split_batch(batch, micro, processes)
