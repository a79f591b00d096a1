"""The data pass against full covariances in float64, and its invariances; each comparison can fail."""

from __future__ import annotations

import pytest
import torch
from brute import full_covariances, literal_scores

from farss.maths.scores import score_directions
from farss.maths.spectrum import decompose
from farss.model.calibration import Batch, Example, batches
from farss.model.targets import find_targets, weight_matrix
from farss.statistics.curvature import collect

LAYOUTS = ("tiny_llama", "tiny_gqa", "tiny_qwen", "tiny_gpt2", "tiny_gemma3")
RELATIVE = 1e-10


@pytest.fixture
def model(request):
    """The layout that a test names, in float64."""
    return request.getfixturevalue(request.param).double()


@pytest.fixture
def examples():
    """Seven sequences of different lengths."""
    generator = torch.Generator().manual_seed(3)

    def ids(count):
        return tuple(torch.randint(4, 90, (count,), generator=generator).tolist())

    return [Example(ids(4 + 2 * i), ids(3 + i)) for i in range(7)]


def batched(examples, **options):
    return batches(examples, **({"batch_tokens": 80, "pad_id": 0} | options))


def largest_difference(one, two):
    """Largest relative difference of any pair of moments, relative to the largest entry of each."""
    worst = 0.0
    for name, pair in one.items():
        for mine, other in zip(pair, two[name], strict=True):
            worst = max(worst, float((mine - other).abs().max() / other.abs().max()))
    return worst


def pairs(curvature, targets):
    return {t.name: curvature.pair(t) for t in targets}


def expected_pairs(covariances, targets):
    """Identity 3: moments on the smaller side, from the full covariances."""
    result = {}
    for target in targets:
        weight, (activation, gradient) = weight_matrix(target).double(), covariances[target.name]
        left = target.shape[0] < target.shape[1]
        result[target.name] = (
            (weight @ activation @ weight.T, gradient) if left else (activation, weight.T @ gradient @ weight)
        )
    return result


@pytest.mark.parametrize("tokens", ["nonpad", "response"])
@pytest.mark.parametrize("model", LAYOUTS, indirect=True)
def test_scores_equal_the_literal_definition(model, examples, tokens):
    targets = find_targets(model)
    covariances = full_covariances(model, examples, targets, tokens=tokens)
    curvature = collect(model, batched(examples), targets, tokens=tokens)
    for target in targets:
        sigma, lam, gam, s, importance = literal_scores(target, *covariances[target.name])
        spectrum = decompose(weight_matrix(target), "gesdd")
        scores = score_directions(spectrum, *curvature.pair(target), target.shape)
        assert torch.allclose(spectrum.sigma, sigma, rtol=RELATIVE), target.name
        assert torch.allclose(scores.lam, lam, rtol=RELATIVE), target.name
        assert torch.allclose(scores.gam, gam, rtol=RELATIVE), target.name
        assert torch.allclose(scores.log_s.exp(), s, rtol=RELATIVE), target.name
        assert scores.importance == pytest.approx(float(importance), rel=RELATIVE), target.name


def test_a_shifted_mask_is_noticed(tiny_llama, examples):
    model = tiny_llama.double()
    targets = find_targets(model)
    ours = pairs(collect(model, batched(examples), targets, tokens="response"), targets)
    right = expected_pairs(full_covariances(model, examples, targets, tokens="response"), targets)
    wrong = expected_pairs(full_covariances(model, examples, targets, tokens="response", shift=-1), targets)
    assert largest_difference(ours, right) < RELATIVE
    assert largest_difference(ours, wrong) > 1e-3


def test_counted_padding_is_noticed(tiny_llama, examples):
    model = tiny_llama.double()
    targets = find_targets(model)
    right = expected_pairs(full_covariances(model, examples, targets), targets)
    assert largest_difference(pairs(collect(model, batched(examples), targets), targets), right) < RELATIVE
    padded = pairs(collect(model, batched(examples), targets, tokens="all"), targets)
    assert largest_difference(padded, right) > 1e-3
    forgotten = [Batch(b.input_ids, torch.ones_like(b.attention_mask), b.labels) for b in batched(examples)]
    assert largest_difference(pairs(collect(model, forgotten, targets), targets), right) > 1e-3


@pytest.mark.parametrize("model", LAYOUTS, indirect=True)
@pytest.mark.parametrize(
    "options",
    [
        {"batch_tokens": 1},
        {"batch_tokens": 1000},
        {"sort": False},
        {"side": "left"},
        {"pad_to": 32},
        {"pad_to": 32, "side": "left", "max_sequences": 2},
    ],
    ids=str,
)
def test_batching_changes_nothing(model, examples, options):
    targets = find_targets(model)
    reference = collect(model, batched(examples), targets)
    other = collect(model, batched(examples, **options), targets)
    assert (other.tokens, other.supervised, other.sequences) == (reference.tokens, reference.supervised, 7)
    assert largest_difference(pairs(other, targets), pairs(reference, targets)) < RELATIVE


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("model", LAYOUTS, indirect=True)
def test_gradient_checkpointing_changes_nothing(model, examples, reentrant):
    targets = find_targets(model)
    reference = collect(model, batched(examples), targets)
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    calls = []
    norm = next(module for name, module in model.named_modules() if name.endswith(("1.input_layernorm", "h.1.ln_1")))
    handle = norm.register_forward_hook(lambda *_: calls.append(1))
    queue = batched(examples)
    other = collect(model, queue, targets)
    handle.remove()
    assert len(calls) == 2 * len(queue) + 1  # each block ran twice per batch, so checkpointing was on
    assert (other.tokens, other.supervised) == (reference.tokens, reference.supervised)
    assert largest_difference(pairs(other, targets), pairs(reference, targets)) < RELATIVE
