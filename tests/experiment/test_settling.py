"""As many calibration rows as it takes: the steps, the halves, and when they are enough."""

from __future__ import annotations

import pytest
import torch

from farss.config import MOST_ROWS, FarssConfig, Recipe
from farss.errors import DataError
from farss.experiment.drawing import draw
from farss.experiment.initialisation.crew import Crew
from farss.experiment.initialisation.growing import Growth, grow
from farss.experiment.initialisation.settling import Agreed, Settlement, Step, agreed, settles, sizes
from farss.experiment.progress import ProgressLine
from farss.methods.base import Evidence
from farss.model.calibration import Example, batches, data_fingerprint
from farss.model.spectra import SpectrumCache
from farss.model.targets import find_targets
from farss.statistics.curvature import collect

CONFIG = FarssConfig(rank=4, r_avg=2, r_max=4, shallow_layers=1)


def examples(count: int) -> list[Example]:
    generator = torch.Generator().manual_seed(3)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(4, 90, (length,), generator=generator).tolist())

    return [Example(ids(4 + i % 7), ids(3)) for i in range(count)]


def growth(rows: int, kept, hands: Crew | None = None) -> Growth:
    return Growth(
        draw(examples(rows), MOST_ROWS, 0),
        lambda mine: batches(mine, batch_tokens=40, pad_id=0),
        lambda mine: data_fingerprint(mine, 0),
        CONFIG,
        kept,
        "these",
        hands or Crew(),
    )


@pytest.fixture
def spectra(tmp_path):
    return SpectrumCache(tmp_path / "spectra")


@pytest.fixture
def verdicts(monkeypatch):
    """Say after which rows the halves are to count as equal."""

    def set_to(rows: int | None):
        def judged(targets, halves, config):
            calls.append(len(calls))
            return Agreed(ranks=0.0, low=1.0, high=1.0 if sizes(MOST_ROWS)[len(calls) - 1] == rows else 0.0)

        calls: list[int] = []
        monkeypatch.setattr("farss.experiment.initialisation.growing.agreed", judged)
        return calls

    return set_to


def test_rows_are_doubled_up_to_what_there_is():
    assert sizes(256) == [8, 16, 32, 64, 128, 256]
    assert sizes(21) == [8, 16, 21]
    assert sizes(8) == [8] and sizes(3) == [3]


def test_a_sample_is_the_beginning_of_a_larger_one():
    rows = [(i,) for i in range(700)]  # where Python's own samples of few and of many rows differ
    most = draw(rows, MOST_ROWS, 5).rows
    for count in (1, 8, 48, 255):
        assert draw(rows, count, 5).rows == most[:count]
        assert draw(rows, count, 5).first(count) == sorted(most[:count])
    assert len(draw(rows, 300, 5).rows) == 300
    assert draw(rows[:5], MOST_ROWS, 5).first(MOST_ROWS) == rows[:5]


def test_only_the_number_is_left_to_the_data():
    assert settles(Recipe())
    for key, value in (("data.calibration_rows", 8), ("init.compat", "published-code"), ("init.max_batches", 3)):
        assert not settles(Recipe().override({key: value}))


@pytest.mark.parametrize(
    ("found", "steady"),
    [
        (Agreed(0.1, 0.9, 0.9), True),
        (Agreed(0.11, 0.99, 0.99), False),
        (Agreed(0.0, 0.89, 0.99), False),
        (Agreed(0.0, 0.99, 0.89), False),
        (Agreed(0.0, None, None), True),
    ],
)
def test_both_ends_and_the_ranks_must_agree(found, steady):
    assert found.steady == steady


def test_a_settlement_says_why_it_is_over(capsys):
    found = Settlement((), 16)
    assert not found.over
    found = found.after(Step(8, 80, Agreed(0.2, 0.7, 0.8)))
    assert not found.over and "more rows" in capsys.readouterr().err
    found = found.after(Step(16, 170, Agreed(0.15, 0.8, 0.8)))
    said = capsys.readouterr().err
    assert found.over and "16 rows, 170 tokens" in said and "0.800" in said and "15.0 %" in said
    assert found.reason == "there are no more" and found.reason in said
    assert Settlement.from_mapping(found.to_mapping()) == found
    assert Settlement((Step(8, 80, Agreed(0.0, 1.0, 1.0)),), 16).reason == "the halves agree"
    assert "256" in Settlement((Step(256, 9, Agreed(0.5, 0.5, 0.5)),), 256).reason


def test_halves_are_disjoint_and_each_step_only_adds(tmp_path):
    whole = growth(21, tmp_path)
    seen = {}
    for size in (8, 16, 21):
        found = [[tuple(row[row > 0].tolist()) for batch in queue for row in batch.input_ids] for queue in
                 whole.queues(size)]  # fmt: skip
        assert not set(found[0]) & set(found[1])
        wanted = [(*row.prompt_ids, *row.response_ids) for row in whole.drawn.rows[:size]]
        assert sorted(found[0] + found[1]) == sorted(wanted) and sorted(found[0]) == sorted(wanted[::2])
        for half, rows in enumerate(found):
            assert rows[: len(seen.get(half, []))] == seen.get(half, [])
            seen[half] = rows
    shares = [growth(21, tmp_path, Crew(rank, 3)).queues(21) for rank in range(3)]
    together = [sum(batch.input_ids.shape[0] for share in shares for batch in share[half]) for half in (0, 1)]
    assert together == [11, 10]


@pytest.mark.parametrize(("stop", "rows"), [(8, 8), (16, 16), (None, 40)])
def test_what_is_read_is_what_a_pass_over_these_rows_reads(tiny_gqa, tmp_path, spectra, verdicts, stop, rows):
    model = tiny_gqa.double()
    targets, these = find_targets(model), growth(40, tmp_path)
    verdicts(stop)
    (total, other), found = grow(model, targets, these, spectra, ProgressLine("rows", quiet=True))
    assert found.steps[-1].rows == rows and found.steps[-1].tokens == total.tokens + other.tokens
    total.add_(other)
    once = collect(model, batches(draw(examples(40), rows, 0).first(rows), batch_tokens=40, pad_id=0), targets)
    assert (total.tokens, total.sequences) == (once.tokens, once.sequences)
    for key, value in once.sums.items():
        assert torch.allclose(value.packed, total.sums[key].packed, rtol=1e-10, atol=1e-14)
    account = these.account(found)
    assert account["rows"] == rows and account["settled"]["steps"][-1]["rows"] == rows
    assert account["sha256"] == data_fingerprint(draw(examples(40), rows, 0).first(rows), 0)["sha256"]


@pytest.mark.parametrize("at", [1, 3, 6, 9])
def test_interrupted_it_ends_with_the_same_bits(tiny_gqa, tmp_path, spectra, verdicts, monkeypatch, at):
    monkeypatch.setattr("farss.statistics.keeping.KEEP_SECONDS", 0.0)
    targets, seen = find_targets(tiny_gqa), []

    def until(done, total, note=""):
        seen.append(done)
        if len(seen) == at:
            raise KeyboardInterrupt

    verdicts(32)
    parts, found = grow(tiny_gqa, targets, growth(40, tmp_path / "whole"), spectra, ProgressLine("", quiet=True))
    calls = verdicts(32)
    with pytest.raises(KeyboardInterrupt):
        grow(tiny_gqa, targets, growth(40, tmp_path / "cut"), spectra, until)
    before = len(calls)
    again, same = grow(tiny_gqa, targets, growth(40, tmp_path / "cut"), spectra, ProgressLine("", quiet=True))
    assert len(calls) == 3 and same == found  # what was decided is not decided again
    assert before < 3
    for one, other in zip(parts, again, strict=True):
        assert all(torch.equal(value.packed, other.sums[key].packed) for key, value in one.sums.items())


def test_fewer_rows_than_two_for_every_process_are_refused(tmp_path):
    with pytest.raises(DataError, match="two for every process"):
        growth(5, tmp_path, Crew(0, 3)).queues(5)


def test_equal_halves_agree_and_unrelated_ones_do_not(tiny_gqa, spectra):
    targets = find_targets(tiny_gqa)
    rows = examples(40)
    one, two = (
        collect(tiny_gqa, batches(part, batch_tokens=40, pad_id=0), targets) for part in (rows[::2], rows[1::2])
    )

    def scores(curvature, shuffled=False):
        found = Evidence("x")
        for target in targets:
            scored = found.score(target, spectra.get(target, "gram"), curvature.pair(target))
            if shuffled:
                order = torch.randperm(len(scored.log_s), generator=torch.Generator().manual_seed(0))
                scored.log_s.copy_(scored.log_s[order])
        return found

    same = agreed(targets, (scores(one), scores(one)), CONFIG)
    assert same == Agreed(0.0, pytest.approx(1.0), pytest.approx(1.0)) and same.steady
    near, far = (agreed(targets, (scores(one), scores(two, shuffled)), CONFIG) for shuffled in (False, True))
    assert near.low > 0.5 and near.high > 0.5
    assert far.low < 0.4 and far.high < 0.4 and not far.steady
