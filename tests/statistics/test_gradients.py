"""Weight gradients: equal to autograd's, independent of batching and checkpointing, and nothing left behind."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from farss.errors import DataError, NumericalError, StorageError
from farss.model.calibration import Example, batches
from farss.model.targets import find_targets
from farss.statistics.gradients import Gradients, collect_gradients


@pytest.fixture
def examples() -> list[Example]:
    generator = torch.Generator().manual_seed(2)

    def ids(count):
        return tuple(torch.randint(4, 90, (count,), generator=generator).tolist())

    return [Example(ids(4 + i), ids(3 + i)) for i in range(5)]


@pytest.fixture
def queue(examples):
    return batches(examples, batch_tokens=40, pad_id=0)


def autograd(model, targets, examples) -> dict[str, torch.Tensor]:
    """The gradient [m, n] of the mean loss of a supervised token, one example at a time."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for example in examples:
        ids = torch.tensor([[*example.prompt_ids, *example.response_ids]])
        start = len(example.prompt_ids)
        logits = model(input_ids=ids).logits[0, start - 1 : -1]
        total = total + functional.cross_entropy(logits, ids[0, start:], reduction="sum")
        count += len(example.response_ids)
    weights = [target.module.weight for target in targets]
    found = torch.autograd.grad(total / count, weights)
    return {t.name: g.T if t.transposed else g for t, g in zip(targets, found, strict=True)}


@pytest.mark.parametrize("fixture", ["tiny_gqa", "tiny_qwen", "tiny_gpt2"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_gradients_are_those_of_autograd(request, fixture, side, examples):
    model = request.getfixturevalue(fixture).double()
    targets = find_targets(model)
    gradients = collect_gradients(model, batches(examples, batch_tokens=40, pad_id=0, side=side, pad_to=8), targets)
    assert gradients.supervised == sum(len(e.response_ids) for e in examples)
    for name, expected in autograd(model, targets, examples).items():
        # The norms and rotations of transformers are in float32 even here, and padding shifts their last digits.
        assert float((gradients.mean(name) - expected).norm()) < 1e-6 * float(expected.norm()), name


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_changes_nothing(tiny_gqa, queue, reentrant):
    model = tiny_gqa.double()
    targets = find_targets(model)
    plain = collect_gradients(model, queue, targets)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    recomputed = collect_gradients(model, queue, targets)
    for target in targets:
        torch.testing.assert_close(recomputed.mean(target), plain.mean(target), rtol=1e-10, atol=1e-14)


def test_float16_is_freed_of_its_loss_scale(tiny_llama, queue):
    exact = collect_gradients(tiny_llama, queue, find_targets(tiny_llama, targets=["o_proj"]))
    targets = find_targets(tiny_llama.half(), targets=["o_proj"])
    half = collect_gradients(tiny_llama, queue, targets)
    for target in targets:
        assert half.sums[target.name].dtype == torch.float32
        assert float((half.mean(target) - exact.mean(target)).norm()) < 0.05 * float(exact.mean(target).norm())


def test_no_parameter_receives_a_gradient(tiny_llama, queue):
    collect_gradients(tiny_llama, queue, find_targets(tiny_llama))
    assert all(p.requires_grad and p.grad is None for p in tiny_llama.parameters())
    assert not any("forward" in vars(module) for module in tiny_llama.modules())


def test_parts_merge_to_the_whole_and_come_back_from_disk(tiny_gqa, queue, tmp_path):
    model = tiny_gqa.double()
    targets = find_targets(model)
    whole, first, rest = (collect_gradients(model, part, targets) for part in (queue, queue[:1], queue[1:]))
    first.save(tmp_path / "first.safetensors")
    merged = Gradients.load(tmp_path / "first.safetensors").merge(rest)
    assert (merged.supervised, merged.sequences, merged.bytes) == (whole.supervised, whole.sequences, whole.bytes)
    for target in targets:
        torch.testing.assert_close(merged.mean(target), whole.mean(target), rtol=1e-10, atol=1e-14)
    with pytest.raises(DataError, match="cannot be merged"):
        first.merge(collect_gradients(model, queue, targets[1:]))
    with pytest.raises(DataError, match="no gradient"):
        whole.mean("elsewhere")


def test_what_cannot_be_used_is_refused(tiny_llama, queue, tmp_path):
    targets = find_targets(tiny_llama, targets=["o_proj"])
    with pytest.raises(DataError, match="supervises no token"):
        collect_gradients(tiny_llama, batches([Example((5, 6), ())], batch_tokens=8, pad_id=0), targets)
    with pytest.raises(NumericalError, match="not finite"):
        Gradients({"a": torch.full((2, 2), torch.nan)}, supervised=1).mean("a")
    from farss.storage import write_tensors

    write_tensors(tmp_path / "other.safetensors", {"a": torch.zeros(2)})
    with pytest.raises(StorageError, match="record of gradients is damaged"):
        Gradients.load(tmp_path / "other.safetensors")
