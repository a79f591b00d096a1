"""Second moments of a classifier against plain hooks and autograd, one unpadded text at a time, in float64."""

from __future__ import annotations

import pytest
import torch
from tests.classifiers import FAMILIES, PAD, labelled, tiny_classifier

from farss.errors import NumericalError
from farss.model.calibration import grouped
from farss.model.classification import LabelledBatch, LabelledExample, labelled_batches
from farss.model.targets import find_targets, weight_matrix
from farss.statistics.curvature import collect
from farss.statistics.gradients import collect_gradients
from farss.statistics.inputs import collect_inputs
from farss.statistics.layer_fisher import collect_layer_fisher

RELATIVE = 1e-10
"""Of float64 sums in another order."""


def batched(examples, **options) -> list[LabelledBatch]:
    return labelled_batches(examples, **({"batch_tokens": 60, "pad_id": PAD} | options))


def brute_force(model, examples: list[LabelledExample], targets, *, first_only: bool = False):
    """Name -> (S_h, S_delta, squared gradient), and the summed gradient, of sums over single texts."""
    h2, d2 = ({t.name: 0.0 for t in targets} for _ in range(2))
    squares, gradients, count = {t.name: 0.0 for t in targets}, {t.name: 0.0 for t in targets}, 0
    for example in examples:
        seen: dict = {}
        handles = []
        for target in targets:

            def hook(module, args, output, name=target.name, seen=seen):
                output.retain_grad()
                seen[name] = (args[0], output)

            handles.append(target.module.register_forward_hook(hook))
        types = {"token_type_ids": torch.tensor([example.segments])} if example.segments else {}
        model.zero_grad(set_to_none=True)
        logits = model(input_ids=torch.tensor([example.ids]), **types).logits[0]
        regression = isinstance(example.label, float)
        loss = (logits[0] - example.label) ** 2 if regression else -logits.log_softmax(-1)[example.label]
        loss.backward()
        for handle in handles:
            handle.remove()
        rows = slice(0, 1) if first_only else slice(None)
        count += len(range(len(example))[rows])
        for target in targets:
            h, y = seen[target.name]
            h2[target.name] += h.detach()[0][rows].T @ h.detach()[0][rows]
            d2[target.name] += y.grad[0][rows].T @ y.grad[0][rows]
            squares[target.name] += float(target.module.weight.grad.square().sum())
            gradients[target.name] += target.module.weight.grad.clone()
    model.zero_grad(set_to_none=True)
    return {n: (h2[n] / count, d2[n] / count) for n in h2}, squares, gradients


def pair(moments, target):
    """The two moments on the smaller side, of the full ones."""
    s_h, s_delta = moments[target.name]
    weight = weight_matrix(target)
    if target.shape[0] < target.shape[1]:
        return weight @ s_h @ weight.T, s_delta
    return s_h, weight.T @ s_delta @ weight


def gap(one, two) -> float:
    return float((one - two).norm() / two.norm())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("classes", [3, 1])
def test_statistics_equal_brute_force(family, classes):
    model = tiny_classifier(family, classes).double()
    examples = labelled(classes=classes, segments=family == "bert")
    targets = find_targets(model)
    assert {t.layer for t in targets} == {0, 1, 2} and len(targets) == 18
    expected, squares, gradients = brute_force(model, examples, targets)
    queue = batched(examples)
    assert len(queue) > 1 and any(not bool(batch.attention_mask.all()) for batch in queue)
    found, inputs = collect(model, queue, targets), collect_inputs(model, queue, targets)
    scores, sums = collect_layer_fisher(model, queue, targets), collect_gradients(model, queue, targets)
    assert found.tokens == sum(map(len, examples)) and found.sequences == found.supervised == len(examples)
    for target in targets:
        for got, wanted in zip(found.pair(target.name, weight_matrix(target)), pair(expected, target), strict=True):
            assert gap(got, wanted) < RELATIVE, target.name
        assert gap(inputs.second_moment(target), expected[target.name][0]) < RELATIVE
        assert scores.sums[target.name] == pytest.approx(squares[target.name], rel=RELATIVE)
        assert gap(sums.mean(target) * len(examples), gradients[target.name]) < RELATIVE
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_response_counts_the_position_the_head_reads(family):
    model = tiny_classifier(family).double()
    examples, targets = labelled(), find_targets(model)
    expected, _, _ = brute_force(model, examples, targets, first_only=True)
    everything, _, _ = brute_force(model, examples, targets)
    found = collect(model, batched(examples), targets, tokens="response")
    assert found.tokens == len(examples)
    differs = []
    for target in targets:
        got = found.pair(target.name, weight_matrix(target))
        assert max(gap(a, b) for a, b in zip(got, pair(expected, target), strict=True)) < RELATIVE
        differs.append(max(gap(a, b) for a, b in zip(got, pair(everything, target), strict=True)) > RELATIVE)
    assert all(differs)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "options", [{"batch_tokens": 1}, {"batch_tokens": 9999}, {"pad_to": 64}, {"sort": False}], ids=str
)
def test_batching_and_padding_change_nothing(family, options):
    model = tiny_classifier(family).double()
    targets, examples = find_targets(model), labelled(segments=family == "bert")
    reference, other = (collect(model, batched(examples, **chosen), targets) for chosen in ({}, options))
    assert other.tokens == reference.tokens
    for target in targets:
        weight = weight_matrix(target)
        pairs = zip(other.pair(target.name, weight), reference.pair(target.name, weight), strict=True)
        assert max(gap(a, b) for a, b in pairs) < RELATIVE
    padded = collect(model, batched(examples, pad_to=64), targets, tokens="all")
    assert padded.tokens == 64 * len(examples)  # the control: counting padding is another thing


def test_the_last_layer_has_gradients_after_attention_only_where_the_head_reads():
    """What the docstring of `LabelledBatch.supervised` says: zeros elsewhere, so both choices differ by a factor."""
    model = tiny_classifier("bert").double()
    examples = labelled()
    last = [t for t in find_targets(model) if t.layer == 2 and t.kind == "dense"]
    everywhere, _, _ = brute_force(model, examples, last)
    first, _, _ = brute_force(model, examples, last, first_only=True)
    factor = len(examples) / sum(map(len, examples))
    for target in last:
        assert gap(everywhere[target.name][1], factor * first[target.name][1]) < RELATIVE
        assert gap(everywhere[target.name][0], factor * first[target.name][0]) > 0.1


@pytest.mark.parametrize("classes", [3, 1])
def test_drawn_labels_are_seeded_and_of_the_models_own_distribution(classes):
    model = tiny_classifier("bert", classes).double()
    targets, queue = find_targets(model)[:1], batched(labelled(classes=classes))

    def trace(seed: int, fisher="sampled") -> float:
        found = collect(model, queue, targets, fisher=fisher, seed=seed)
        return float(found.pair(targets[0].name, weight_matrix(targets[0]))[1].trace())

    assert trace(0) == trace(0) != trace(1)
    assert trace(0, "empirical") not in (trace(0), trace(1))


def test_a_batch_mean_weighs_batches_by_their_size_and_a_broken_model_is_named():
    model = tiny_classifier("bert").double()
    targets, queue = find_targets(model)[:2], batched(labelled(), batch_tokens=1)
    by_one = collect(model, queue, targets, loss_norm="batch_mean")
    summed = collect(model, batched(labelled()), targets)
    weight = weight_matrix(targets[0])
    assert gap(by_one.pair(targets[0].name, weight)[1], summed.pair(targets[0].name, weight)[1]) < RELATIVE
    model.classifier.weight.data[0, 0] = float("nan")
    with pytest.raises(NumericalError, match="loss is not finite"):
        collect(model, queue, targets)


def test_groups_hold_every_example_once_and_keep_to_their_size():
    examples = labelled(20)
    groups = grouped(examples, batch_tokens=60, pad_to=8)
    assert sorted(e.ids for group, _ in groups for e in group) == sorted(e.ids for e in examples)
    assert all(width * len(group) <= 60 or len(group) == 1 for group, width in groups)
    assert all(width % 8 == 0 and width >= max(map(len, group)) for group, width in groups)
