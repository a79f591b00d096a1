"""What a data loader may give beside ids, mask and labels: obeyed, or refused by its name."""

from __future__ import annotations

import pytest
import torch

from farss.config import FarssConfig
from farss.errors import DataError
from farss.experiment.initialisation.planning import resolved, take
from farss.methods.statistics import CURVATURE
from farss.model.calibration import Batch
from farss.model.targets import find_targets

LENGTHS = (5, 3, 4)


def rows() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(Ids, labels) of three sequences; the first two tokens of each are only read."""
    generator = torch.Generator().manual_seed(0)
    found = [torch.randint(4, 90, (length,), generator=generator) for length in LENGTHS]
    return [(ids, torch.where(torch.arange(len(ids)) < 2, -100, ids)) for ids in found]


def padded() -> dict[str, torch.Tensor]:
    ids, labels = (
        torch.nn.utils.rnn.pad_sequence([row[i] for row in rows()], True, pad) for i, pad in ((0, 0), (1, -100))
    )
    mask = torch.stack([(torch.arange(max(LENGTHS)) < length).long() for length in LENGTHS])
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


def packed() -> dict[str, torch.Tensor]:
    """One row; the first label of a sequence is its token, as some packers leave it."""
    labels = torch.cat([torch.cat([ids[:1], labels[1:]]) for ids, labels in rows()])[None]
    return {"input_ids": torch.cat([ids for ids, _ in rows()])[None], "labels": labels}


NUMBERS = torch.cat([torch.full((length,), i + 1) for i, length in enumerate(LENGTHS)])[None]
SAID = {
    "position_ids": torch.cat([torch.arange(length) for length in LENGTHS])[None],
    "seq_idx": NUMBERS - 1,
    "cu_seq_lens_q": torch.tensor([0, 5, 8, 12]),
    "attention_mask": NUMBERS,
}


@pytest.mark.case("packed batches for the statistics")
@pytest.mark.parametrize("names", [*([name] for name in SAID), list(SAID)], ids="+".join)
def test_packed_sequences_get_a_row_each(names):
    batch = Batch.of(packed() | {name: SAID[name] for name in names})
    expected = padded()
    assert torch.equal(batch.input_ids, expected["input_ids"]) and torch.equal(batch.labels, expected["labels"])
    assert torch.equal(batch.attention_mask, expected["attention_mask"])


@pytest.mark.case("packed batches for the statistics")
def test_statistics_of_packed_batches_are_those_of_the_rows(tiny_llama):
    config = resolved(FarssConfig())
    targets = find_targets(tiny_llama)
    batches = [Batch.of(padded()), Batch.of(packed() | {"position_ids": SAID["position_ids"]}), Batch.of(packed())]
    of_rows, of_pack, ignored = (take(CURVATURE, tiny_llama, [batch], targets, config) for batch in batches)
    for name in of_rows.sums:
        assert torch.allclose(of_pack.sums[name].dense(), of_rows.sums[name].dense(), rtol=1e-4, atol=1e-7)
    assert any(not torch.allclose(ignored.sums[n].dense(), of_rows.sums[n].dense(), rtol=0.1) for n in of_rows.sums)


@pytest.mark.parametrize("side", ["left", "right"])
def test_positions_of_padded_rows_change_nothing(side):
    given = padded()
    if side == "left":
        given = {name: value.flip(1) for name, value in given.items()}
    positions = (given["attention_mask"].cumsum(1) - 1).clamp(min=0)
    batch = Batch.of(given | {"position_ids": positions, "token_type_ids": torch.zeros_like(positions)})
    assert torch.equal(batch.input_ids, given["input_ids"]) and torch.equal(batch.labels, given["labels"])


@pytest.mark.case("packed batches for the statistics")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("position_ids", torch.arange(12)[None] + 3),
        ("position_ids", torch.zeros(3, 1, 12)),
        ("position_ids", torch.arange(11)[None]),
        ("position_ids", torch.tensor([[0, 1, 2, 3, 4, 7, 8, 9, 0, 1, 2, 3]])),
        ("seq_idx", torch.zeros(1, 3)),
        ("cu_seq_lens_q", torch.tensor([0, 20])),
        ("cu_seq_lens_q", torch.tensor([3, 2])),
        ("token_type_ids", torch.ones(1, 12)),
        ("inputs_embeds", torch.zeros(1, 12, 4)),
        ("pixel_values", torch.zeros(1, 3, 8, 8)),
        ("loss_weights", torch.ones(1, 12)),
        ("completion_mask", torch.ones(1, 12)),
        ("decoder_input_ids", torch.ones(1, 12)),
    ],
)
def test_what_is_not_obeyed_is_refused_by_its_name(name, value):
    with pytest.raises(DataError, match=r"position|sequence numbers|cumulated|does not read"):
        Batch.of(packed() | {name: value})


def test_tensors_that_disagree_are_refused():
    with pytest.raises(DataError, match="do not agree"):
        Batch.of(packed() | {"position_ids": SAID["position_ids"], "seq_idx": torch.zeros(1, 12)})


def test_counts_and_names_are_let_through():
    more = {"num_items_in_batch": torch.tensor(7), "length": torch.tensor([12]), "text": ["a"], "max_length_q": 5}
    assert Batch.of(packed() | more).tokens == 12
