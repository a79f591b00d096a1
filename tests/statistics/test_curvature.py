"""What the data pass leaves untouched, refuses, saves, merges and costs."""

from __future__ import annotations

import pytest
import torch

from farss.errors import DataError, ModelError, NumericalError, StorageError
from farss.model.calibration import Batch, Example, batches
from farss.model.loss import SupervisedLoss
from farss.model.targets import find_targets, weight_matrix
from farss.statistics.curvature import collect
from farss.statistics.moments import Curvature, SymmetricSum


@pytest.fixture
def queue():
    """Three batches of one tiny data set."""
    generator = torch.Generator().manual_seed(1)

    def ids(count):
        return tuple(torch.randint(4, 90, (count,), generator=generator).tolist())

    return batches([Example(ids(5 + i), ids(4)) for i in range(6)], batch_tokens=30, pad_id=0)


def assert_close(one, two, targets, relative):
    for target in targets:
        for mine, other in zip(one.pair(target), two.pair(target), strict=True):
            assert float((mine - other).norm()) <= relative * float(other.norm()), target.name


@pytest.mark.parametrize("k", [5, 96, 200, 391, 577])
def test_a_symmetric_sum_is_the_sum_of_products(k):
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(20, k, generator=generator, dtype=torch.float64) for _ in range(3)]
    total = SymmetricSum(k, torch.float64)
    for part in parts:
        total.add(part)
    stacked = torch.cat(parts)
    assert torch.allclose(total.dense(), stacked.T @ stacked, rtol=0, atol=1e-12)
    assert torch.equal(total.dense(), total.dense().T)
    assert total.packed.numel() <= k * k


@pytest.mark.parametrize("fixture", ["tiny_gqa", "tiny_gpt2"])
def test_the_model_is_as_before(request, fixture, queue):
    model = request.getfixturevalue(fixture).train()
    targets = find_targets(model)
    targets[0].module.eval()
    frozen = next(iter(model.parameters())).requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [module.training for module in model.modules()]
    random_state = torch.get_rng_state()
    collect(model, queue, targets, fisher="sampled")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == flags
    assert [p.requires_grad for p in model.parameters()] == [p is not frozen for p in model.parameters()]
    assert all(p.grad is None for p in model.parameters())
    assert not any("forward" in vars(module) or module._forward_hooks for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_forward_function_that_was_there_is_put_back(tiny_llama, queue):
    module = tiny_llama.model.layers[0].self_attn.q_proj
    own = module.forward
    module.forward = own
    collect(tiny_llama, queue, find_targets(tiny_llama))
    assert vars(module)["forward"] is own


def test_the_model_is_as_before_after_a_failure(tiny_llama, queue):
    tiny_llama.lm_head.weight.data[3] = float("nan")
    with pytest.raises(NumericalError, match="batch 0"):
        collect(tiny_llama, queue, find_targets(tiny_llama))
    assert not any("forward" in vars(module) for module in tiny_llama.modules())
    assert all(p.requires_grad for p in tiny_llama.parameters())


def test_inputs_are_kept_once_and_nothing_is_wider_than_the_small_side(tiny_gqa, queue):
    curvature = collect(tiny_gqa, queue, find_targets(tiny_gqa))
    layer = {key.replace("model.layers.0.", ""): s.k for key, s in curvature.sums.items() if "layers.0." in key}
    assert layer == {
        "h/self_attn.q_proj": 32,
        "delta/self_attn.q_proj": 32,
        "delta/self_attn.k_proj": 16,
        "delta/self_attn.v_proj": 16,
        "h/self_attn.o_proj": 32,
        "delta/self_attn.o_proj": 32,
        "h/mlp.gate_proj": 32,
        "g/mlp.gate_proj": 32,
        "g/mlp.up_proj": 32,
        "y/mlp.down_proj": 32,
        "delta/mlp.down_proj": 32,
    }
    assert curvature.bytes == 3 * 4 * (9 * 32**2 + 2 * 16**2)


def test_a_subset_of_targets_gives_the_same_moments(tiny_gqa, queue):
    everything = collect(tiny_gqa, queue, find_targets(tiny_gqa))
    some = find_targets(tiny_gqa, targets=["k_proj", "up_proj", "down_proj"])
    assert_close(collect(tiny_gqa, queue, some), everything, some, 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close_to_double(tiny_qwen, queue, dtype):
    targets = find_targets(tiny_qwen.to(dtype))
    half = collect(tiny_qwen, queue, targets)
    assert all(s.packed.dtype == torch.float32 for s in half.sums.values())
    assert_close(half, collect(tiny_qwen.double(), queue, find_targets(tiny_qwen)), targets, 0.05)


def test_half_precision_rounding_stays_out_of_small_directions(tiny_llama, queue):
    """Rounded outputs would lift E[(u' W h)^2] of a zero direction to about 1e-6 of the largest; products do not."""
    targets = find_targets(tiny_llama, targets=["up_proj", "down_proj"])
    for target in targets:
        weight = weight_matrix(target)
        weight.copy_(weight.to(torch.bfloat16))
        weight.t()[-1].zero_() if target.shape[0] > target.shape[1] else weight[-1].zero_()
    targets = find_targets(tiny_llama.to(torch.bfloat16), targets=["up_proj", "down_proj"])
    curvature = collect(tiny_llama, queue, targets)
    for target in targets:
        first, second = curvature.pair(target)
        projected = second if target.shape[0] > target.shape[1] else first
        assert float(projected[-1, -1]) == 0


def test_batch_mean_weighs_batches_by_their_supervised_tokens(tiny_llama, queue):
    model, one = tiny_llama.double(), queue[:1]
    targets = find_targets(model, targets=["o_proj"])
    summed, mean = collect(model, one, targets), collect(model, one, targets, loss_norm="batch_mean")
    _, expected = summed.pair(targets[0])
    assert torch.allclose(mean.pair(targets[0])[1] * summed.supervised**2, expected, rtol=1e-10)


def test_sampled_labels_follow_the_seed(tiny_llama, queue):
    targets = find_targets(tiny_llama, targets=["o_proj"])
    one, same, other = (collect(tiny_llama, queue, targets, fisher="sampled", seed=s) for s in (1, 1, 2))
    assert torch.equal(one.pair(targets[0])[1], same.pair(targets[0])[1])
    assert not torch.equal(one.pair(targets[0])[1], other.pair(targets[0])[1])
    assert torch.equal(one.pair(targets[0])[0], other.pair(targets[0])[0])


def test_progress_counts_real_tokens_and_batches_can_be_limited(tiny_llama, queue):
    seen = []
    curvature = collect(
        tiny_llama, queue, find_targets(tiny_llama), max_batches=2, progress=lambda *counts: seen.append(counts)
    )
    total = queue[0].tokens + queue[1].tokens
    assert seen == [(queue[0].tokens, total), (total, total)]
    assert (curvature.tokens, curvature.sequences) == (total, sum(len(b.input_ids) for b in queue[:2]))


def test_parts_merge_to_the_whole(tiny_gqa, queue):
    model = tiny_gqa.double()
    targets = find_targets(model)
    whole = collect(model, queue, targets)
    parts = collect(model, queue[:1], targets).merge(collect(model, queue[1:], targets))
    assert (parts.tokens, parts.supervised, parts.sequences) == (whole.tokens, whole.supervised, whole.sequences)
    assert_close(parts, whole, targets, 1e-12)


def test_different_settings_do_not_merge(tiny_llama, queue):
    targets = find_targets(tiny_llama, targets=["o_proj"])
    with pytest.raises(DataError, match="merged"):
        collect(tiny_llama, queue, targets).merge(collect(tiny_llama, queue, targets, tokens="response"))


def test_saved_moments_are_read_back(tiny_gqa, queue, tmp_path):
    targets = find_targets(tiny_gqa)
    curvature = collect(tiny_gqa, queue, targets)
    curvature.save(tmp_path / "stats.safetensors")
    read = Curvature.load(tmp_path / "stats.safetensors")
    assert (read.shapes, read.inputs, read.settings) == (curvature.shapes, curvature.inputs, curvature.settings)
    for target in targets:
        weight = weight_matrix(target)
        for mine, other in zip(read.pair(target.name, weight), curvature.pair(target), strict=True):
            assert torch.equal(mine, other)
    assert read.merge(curvature).tokens == 2 * curvature.tokens


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "stats.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0short")
    with pytest.raises(StorageError):
        Curvature.load(tmp_path / "stats.safetensors")


def test_a_file_of_something_else_is_refused(tmp_path):
    from farss.storage import write_tensors

    write_tensors(tmp_path / "other.safetensors", {"a": torch.zeros(2)})
    with pytest.raises(StorageError, match="no curvature"):
        Curvature.load(tmp_path / "other.safetensors")


def test_a_batch_without_supervision_is_refused(tiny_llama, queue):
    silent = Batch(queue[1].input_ids, queue[1].attention_mask, torch.full_like(queue[1].labels, -100))
    with pytest.raises(DataError, match="batch 1"):
        collect(tiny_llama, [queue[0], silent], find_targets(tiny_llama))
    with pytest.raises(DataError, match="no calibration batch"):
        collect(tiny_llama, [], find_targets(tiny_llama))


def test_an_unknown_module_has_no_moments(tiny_llama, queue):
    curvature = collect(tiny_llama, queue, find_targets(tiny_llama, targets=["o_proj"]))
    with pytest.raises(DataError, match="q_proj"):
        curvature.pair(find_targets(tiny_llama, targets=["q_proj"])[0])


def test_an_unused_target_is_refused(tiny_llama, queue):
    tiny_llama.model.layers[0].spare = torch.nn.Linear(32, 32)
    with pytest.raises(ModelError, match="spare"):
        collect(tiny_llama, queue, find_targets(tiny_llama))


def test_an_overflowing_gradient_is_refused(tiny_llama, queue):
    tiny_llama.model.norm.weight.data.fill_(1e38)
    with pytest.raises(NumericalError, match="batch 0"):
        collect(tiny_llama, queue, find_targets(tiny_llama))


def test_a_finite_float16_gradient_may_have_a_sum_beyond_float16(tiny_llama):
    loss = SupervisedLoss(tiny_llama, "token_sum", "empirical", seed=0)
    for gradient, finite in [(torch.full((1, 4, 8), 6e4), True), (torch.tensor([1.0, torch.nan]), False)]:
        loss.embedded = torch.zeros_like(gradient, dtype=torch.float16, requires_grad=True)
        loss.embedded.grad = gradient.half()
        assert loss.gradient_is_finite() is finite
