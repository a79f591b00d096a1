"""What an initialisation is expected to need, method by method, beside what is then kept."""

from __future__ import annotations

import pytest
import torch

from farss.config import FarssConfig, Recipe
from farss.experiment.initialisation.outlook import for_method, outlook
from farss.experiment.initialisation.planning import take
from farss.methods import get_method
from farss.methods.statistics import CURVATURE, GRADIENT, INPUTS, KNOWLEDGE
from farss.model.calibration import Example, batches
from farss.model.cost import (
    LOGIT_COPIES,
    BatchSize,
    gradient_bytes,
    input_moment_bytes,
    resident_cost,
    streamed_cost,
)
from farss.model.targets import find_targets

SCALED = FarssConfig().override({"start.covariance_scale": "signed_maximum"})


@pytest.fixture
def queue():
    ids = tuple(range(4, 20))
    return batches([Example(ids, ids[:4])] * 2, batch_tokens=64, pad_id=0)


@pytest.fixture
def seen(tiny_gqa, tiny_tokenizer, queue, tmp_path):
    tiny_gqa.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    return outlook(Recipe().override({"model.name": str(tmp_path)}), queue)


@pytest.mark.parametrize("config", [FarssConfig(), SCALED])
def test_sums_of_inputs_take_what_was_foreseen(config, tiny_gqa, queue):
    targets = find_targets(tiny_gqa)
    moments = take(INPUTS, tiny_gqa, queue, targets, config)
    copies = 2 if config is SCALED else 1
    kept = sum(s.k * s.k for s in moments.sums.values()) * 4  # so small a sum is stored whole
    assert input_moment_bytes(targets, torch.float32, copies) == pytest.approx(kept * 10 / 16)


def test_summed_gradients_take_what_was_foreseen(tiny_gqa, queue):
    targets = find_targets(tiny_gqa)
    gradients = take(GRADIENT, tiny_gqa, queue, targets, FarssConfig())
    assert gradient_bytes(targets, torch.float32) == sum(4 * total.numel() for total in gradients.sums.values())


def test_the_curvature_takes_what_was_foreseen(tiny_gqa, queue, seen):
    kept = take(CURVATURE, tiny_gqa, queue, find_targets(tiny_gqa), FarssConfig())
    whole = sum(s.k * s.k for s in kept.sums.values()) * 4
    assert seen.resident.moments == pytest.approx(whole * 10 / 16, rel=0.01)


def test_the_largest_batch_decides_with_its_logits(queue, seen):
    size = BatchSize.largest(queue)
    assert size == BatchSize(tokens=2 * 20, predictions=2 * 4)
    more = BatchSize(size.tokens, size.predictions + 1)
    logits = LOGIT_COPIES * seen.model.config.vocab_size * 4
    grown = resident_cost(seen.model, seen.targets, seen.dtype, more)
    assert grown.activations == seen.resident.activations + logits
    many = streamed_cost(seen.model, seen.targets, seen.dtype, BatchSize(size.tokens, 1_000_000))
    assert many.activations == 1_000_000 * logits  # the head is a step of its own, beside no block's activations
    assert BatchSize.largest([]) == BatchSize(0, 0)


@pytest.mark.parametrize("method", ["farss", "corda-kpm", "corda-ipm", "lora-ga", "eva", "lora", None])
def test_every_method_is_foreseen_with_its_own_statistics(method, seen):
    found = for_method(seen, method, FarssConfig()).resident
    needs = frozenset() if method is None else get_method(method).needs
    inputs = input_moment_bytes(seen.targets, seen.dtype)
    expected = seen.resident.moments * ("curvature" in needs)
    expected += inputs * len(needs & {INPUTS.name, KNOWLEDGE.name})
    expected += gradient_bytes(seen.targets, seen.dtype) * ("gradient" in needs)
    assert found.moments == expected
    assert (found.activations == 0) == (method in (None, "lora"))
    assert found.weights == seen.resident.weights
