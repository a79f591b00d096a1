"""The layer score against one ordinary backward pass per example in float64; each comparison can fail."""

from __future__ import annotations

import pytest
import torch

from farss.errors import DataError, ModelError, StorageError
from farss.model.calibration import Example, batches
from farss.model.targets import find_targets
from farss.statistics.layer_fisher import LayerFisher, collect_layer_fisher, squared_gradients

LAYOUTS = ("tiny_llama", "tiny_gqa", "tiny_qwen", "tiny_gpt2", "tiny_gemma3")
RELATIVE = 1e-10


@pytest.fixture
def model(request):
    """The layout that a test names, in float64."""
    return request.getfixturevalue(request.param).double()


@pytest.fixture
def examples():
    """Six sequences of different lengths: some so short that the Gram form is the cheaper one, some not."""
    generator = torch.Generator().manual_seed(3)

    def ids(count):
        return tuple(torch.randint(4, 90, (count,), generator=generator).tolist())

    return [Example(ids(2 + 6 * i), ids(2 + 2 * i)) for i in range(6)]


def batched(examples, **options):
    return batches(examples, **({"batch_tokens": 120, "pad_id": 0} | options))


def brute_force(model, examples, targets) -> dict[str, float]:
    """Sum over examples of the squared norm of autograd's own weight gradient, one unpadded sequence at a time."""
    sums = {target.name: 0.0 for target in targets}
    for example in examples:
        ids = torch.tensor([example.prompt_ids + example.response_ids])
        model.zero_grad(set_to_none=True)
        log_probs = model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
        start = len(example.prompt_ids)
        (-sum(log_probs[i - 1, ids[0, i]] for i in range(start, ids.shape[1]))).backward()
        for target in targets:
            sums[target.name] += float(target.module.weight.grad.square().sum())
    model.zero_grad(set_to_none=True)
    return sums


def gap(one: dict[str, float], two: dict[str, float]) -> float:
    assert one.keys() == two.keys()
    return max(abs(one[name] - two[name]) / two[name] for name in two)


@pytest.mark.parametrize("model", LAYOUTS, indirect=True)
def test_sums_equal_one_backward_pass_per_example(model, examples):
    targets = find_targets(model)
    expected = brute_force(model, examples, targets)
    found = collect_layer_fisher(model, batched(examples), targets)
    assert found.examples == len(examples)
    assert gap(found.sums, expected) < RELATIVE
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any("forward" in vars(target.module) for target in targets)


def test_the_gradient_of_a_batch_is_another_thing(tiny_llama, examples):
    """What the published code takes instead, per batch, is far off: the comparison above can fail."""
    model = tiny_llama.double()
    targets = find_targets(model)
    (batch,) = batched(examples, batch_tokens=10_000)
    of_all = collect_layer_fisher(model, [batch], targets).sums
    model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).loss.backward()
    of_batch = {target.name: float(target.module.weight.grad.square().sum()) for target in targets}
    assert gap(of_batch, of_all) > 0.1


@pytest.mark.parametrize("model", LAYOUTS, indirect=True)
@pytest.mark.parametrize(
    "options",
    [
        {"batch_tokens": 1},
        {"batch_tokens": 1000},
        {"sort": False},
        {"side": "left"},
        {"pad_to": 64},
        {"pad_to": 64, "side": "left", "max_sequences": 2},
    ],
    ids=str,
)
def test_batching_and_padding_change_nothing(model, examples, options):
    targets = find_targets(model)
    reference = collect_layer_fisher(model, batched(examples), targets)
    other = collect_layer_fisher(model, batched(examples, **options), targets)
    assert other.examples == reference.examples
    assert gap(other.sums, reference.sums) < RELATIVE


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(tiny_gqa, examples, reentrant):
    model = tiny_gqa.double()
    targets = find_targets(model)
    reference = collect_layer_fisher(model, batched(examples), targets)
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert gap(collect_layer_fisher(model, batched(examples), targets).sums, reference.sums) < RELATIVE
    assert model.training


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision_gives_nearly_the_same(tiny_llama, examples, dtype):
    exact = collect_layer_fisher(tiny_llama.double(), batched(examples), find_targets(tiny_llama)).sums
    model = tiny_llama.to(dtype)
    coarse = collect_layer_fisher(model, batched(examples), find_targets(model)).sums
    assert gap(coarse, exact) < 60 * torch.finfo(dtype).eps


@pytest.mark.parametrize("length", [3, 50])
def test_both_forms_give_the_squared_norm(length):
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(4, length, 20, generator=generator, dtype=torch.float64)
    delta = torch.randn(4, length, 30, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(squared_gradients(h, delta), (delta.mT @ h).square().sum((1, 2)), rtol=1e-12, atol=0)


def test_scores_are_means_over_examples_and_sums_over_a_layers_targets(tiny_gqa, examples, tmp_path):
    targets = find_targets(tiny_gqa)
    found = collect_layer_fisher(tiny_gqa, batched(examples), targets)
    chosen = [target for target in targets if target.kind in ("q_proj", "down_proj")]
    scores = found.scores(chosen)
    assert list(scores) == [0, 1, 2]
    of_first = [t for t in chosen if t.layer == 0]
    assert scores[0] == pytest.approx(sum(found.sums[t.name] for t in of_first) / 6)
    weights = sum(t.shape[0] * t.shape[1] for t in of_first)
    assert found.scores(chosen, "mean")[0] == pytest.approx(scores[0] / weights)
    found.save(tmp_path / "layers.json")
    assert LayerFisher.load(tmp_path / "layers.json") == found


def test_drawn_labels_are_seeded(tiny_llama, examples):
    targets = find_targets(tiny_llama)
    one, two, three = (
        collect_layer_fisher(tiny_llama, batched(examples), targets, fisher="sampled", seed=seed).sums
        for seed in (0, 0, 1)
    )
    assert one == two and gap(one, three) > 1e-3


def test_what_cannot_be_scored_is_refused(tiny_llama, examples, tmp_path):
    targets = find_targets(tiny_llama)
    with pytest.raises(DataError, match="no calibration batch"):
        collect_layer_fisher(tiny_llama, [], targets)
    found = collect_layer_fisher(tiny_llama, batched(examples), targets[:3])
    with pytest.raises(DataError, match="lack a module"):
        found.scores(targets)
    with pytest.raises(StorageError, match="cannot be read"):
        LayerFisher.load(tmp_path / "missing.safetensors")
    block = tiny_llama.model.layers[0].mlp
    once = block.forward
    block.forward = lambda x: once(x) + once(x)
    with pytest.raises(ModelError, match="once per pass"):
        collect_layer_fisher(tiny_llama, batched(examples), targets)
