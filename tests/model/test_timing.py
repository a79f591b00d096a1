"""Predicted times grow with the work; how long anything really takes is not tested."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from farss.model import timing
from farss.model.targets import find_targets
from farss.model.timing import PASS_FLOPS, WALK_FLOPS, Speed, TimeCost, calibrate, predict

SPEED = Speed(
    model_flops=1e9,
    moment_flops=5e8,
    exact_flops=2e8,
    decomposition=1e-8,
    diagonalisation=3e-8,
    eigenvalues=1e-9,
    gate=2e-9,
)


def predicted(
    layers: int, tokens: int, dtype: torch.dtype = torch.float32, tied: bool = False, flops: int = PASS_FLOPS
) -> TimeCost:
    with torch.device("meta"):
        config = LlamaConfig(
            vocab_size=50,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=tied,
        )
        model = LlamaForCausalLM(config)
    return predict(model, find_targets(model, in_memory=False), dtype, tokens, SPEED, flops)


def test_the_pass_is_linear_in_tokens_and_nothing_else_depends_on_them():
    one, ten = predicted(2, 100), predicted(2, 1000)
    assert ten.statistics == pytest.approx(10 * one.statistics)
    assert (ten.decomposition, ten.scoring) == (one.decomposition, one.scoring)


def test_every_layer_adds_the_same():
    times = [predicted(layers, 100) for layers in (1, 2, 3)]
    for part in ("statistics", "decomposition", "scoring", "total"):
        first, second, third = (getattr(cost, part) for cost in times)
        assert third - second == pytest.approx(second - first) and second > first > 0
    assert times[1].decomposition == pytest.approx(2 * times[0].decomposition)


def test_the_products_of_a_layer_by_hand():
    weights = 32 * 32 * 2 + 16 * 32 * 2 + 32 * 48 * 3
    added = predicted(2, 1).statistics - predicted(1, 1).statistics
    moments = 9 * 32**2 + 2 * 16**2  # h of q, k, v and of o and of gate, up; y of down; k and v have 16 outputs
    kept = 3 * 32 + 48 + 3 * 32 + 2 * 16 + 2 * 48  # inputs of q, k, v, of o, of gate, up and of down; outputs
    assert added == pytest.approx(4 * weights / 1e9 + 2 * moments * 10 / 16 / 5e8 + 10 * kept * 2e-9)


def test_a_walk_runs_every_block_forward_once_more_and_takes_the_moments_once():
    once, walked = predicted(1, 1), predicted(1, 1, flops=WALK_FLOPS)
    weights = 32 * 32 * 2 + 16 * 32 * 2 + 32 * 48 * 3 + 50 * 32
    kept = 3 * 32 + 48 + 3 * 32 + 2 * 16 + 2 * 48
    assert walked.statistics - once.statistics == pytest.approx(2 * weights / 1e9 + 5 * kept * 2e-9)
    assert (walked.decomposition, walked.scoring) == (once.decomposition, once.scoring)


def test_the_decompositions_of_a_layer_by_hand():
    added = predicted(2, 1).decomposition - predicted(1, 1).decomposition
    square, narrow, oblong = 32**3 * 4e-8, 16**2 * (32 * 1e-8 + 16 * 3e-8), 32**2 * (48 * 1e-8 + 32 * 3e-8)
    assert added == pytest.approx(2 * square + 2 * narrow + 3 * oblong)


def test_the_scores_of_a_layer_by_hand():
    added = predicted(2, 1).scoring - predicted(1, 1).scoring
    square, narrow, wide = 10 * 32**3, 6 * 16**3 + 4 * 32**2 * 16, 6 * 32**3 + 4 * 48**2 * 32
    tall = 6 * 32**3
    products = 2 * square + 2 * narrow + 2 * tall + wide
    assert added == pytest.approx(2 * products / 2e8 + 3 * 32**3 * 1e-9)  # the input of down is not kept


def test_an_input_embedding_is_looked_up_and_a_tied_one_is_the_head():
    assert predicted(1, 100, tied=True).statistics == pytest.approx(predicted(1, 100).statistics)


def test_half_precision_adds_exact_products():
    assert predicted(1, 100, torch.bfloat16).statistics > predicted(1, 100).statistics


def test_the_calibration_measures_something(monkeypatch):
    monkeypatch.setattr(timing, "ENOUGH_SECONDS", 1e-4)
    monkeypatch.setattr(timing, "SIZE", 48)
    speed = calibrate(torch.bfloat16)
    seconds = dataclasses.asdict(speed)
    parts = seconds.pop("decomposition"), seconds.pop("diagonalisation")
    assert min(parts) >= 0 and sum(parts) > 0  # one of them may drown in the noise
    assert all(value > 0 for value in seconds.values())
