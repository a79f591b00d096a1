"""Second moments of inputs: what they are, how they merge, and what is refused."""

from __future__ import annotations

import pytest
import torch

from farss.errors import DataError, ModelError, NumericalError, StorageError
from farss.model.calibration import Example, batches, encode_prompts
from farss.model.targets import find_targets
from farss.statistics.inputs import InputMoments, collect_inputs


@pytest.fixture
def examples() -> list[Example]:
    generator = torch.Generator().manual_seed(1)

    def ids(count):
        return tuple(torch.randint(4, 90, (count,), generator=generator).tolist())

    return [Example(ids(4 + i), ids(3 if i % 2 else 0)) for i in range(6)]


@pytest.fixture
def queue(examples):
    return batches(examples, batch_tokens=30, pad_id=0)


def watched(model, targets, examples) -> dict[str, list[torch.Tensor]]:
    """The inputs [t, n] of every target on each example alone."""
    seen = {target.name: [] for target in targets}
    handles = [
        target.module.register_forward_pre_hook(lambda _, args, name=target.name: seen[name].append(args[0][0]))
        for target in targets
    ]
    with torch.no_grad():
        for example in examples:
            model(input_ids=torch.tensor([[*example.prompt_ids, *example.response_ids]]))
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("fixture", ["tiny_gqa", "tiny_qwen", "tiny_gpt2"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_moments_are_those_of_the_inputs_whatever_the_batches(request, fixture, side, examples):
    model = request.getfixturevalue(fixture).double()
    targets = find_targets(model)
    queue = batches(examples, batch_tokens=30, pad_id=0, side=side, pad_to=8)
    moments = collect_inputs(model, queue, targets, sample_scale="signed_maximum")
    seen = watched(model, targets, examples)
    assert moments.tokens == sum(map(len, examples)) and moments.sequences == len(examples)
    for target in targets:
        rows = torch.cat(seen[target.name])
        expected = rows.T @ rows / len(rows)
        torch.testing.assert_close(moments.second_moment(target), expected, rtol=1e-9, atol=1e-12)
        scaled = [x / x.max().abs() for x in seen[target.name]]
        expected = sum(x.T @ x for x in scaled) / len(scaled)
        torch.testing.assert_close(moments.scaled_second_moment(target), expected, rtol=1e-9, atol=1e-12)


def test_a_shared_input_is_summed_once_at_full_size(tiny_gqa, queue):
    moments = collect_inputs(tiny_gqa, queue, find_targets(tiny_gqa))
    layer = {key.replace("model.layers.0.", ""): s.k for key, s in moments.sums.items() if "layers.0." in key}
    assert layer == {"h/self_attn.q_proj": 32, "h/self_attn.o_proj": 32, "h/mlp.gate_proj": 32, "h/mlp.down_proj": 64}


def test_the_model_is_as_before(tiny_llama, queue):
    model = tiny_llama.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    collect_inputs(model, queue, find_targets(model))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters()) and model.training
    assert not any("forward" in vars(m) or m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_parts_merge_to_the_whole_and_come_back_from_disk(tiny_gpt2, queue, tmp_path):
    model = tiny_gpt2.double()
    targets = find_targets(model)
    whole = collect_inputs(model, queue, targets, sample_scale="signed_maximum")
    first, rest = (
        collect_inputs(model, part, targets, sample_scale="signed_maximum") for part in (queue[:1], queue[1:])
    )
    first.save(tmp_path / "first.safetensors")
    merged = InputMoments.load(tmp_path / "first.safetensors").merge(rest)
    assert (merged.tokens, merged.sequences) == (whole.tokens, whole.sequences)
    for target in targets:
        torch.testing.assert_close(merged.second_moment(target), whole.second_moment(target), rtol=1e-10, atol=0)
        torch.testing.assert_close(merged.scaled_second_moment(target), whole.scaled_second_moment(target))
    with pytest.raises(DataError, match="merged"):
        first.merge(collect_inputs(model, queue[1:], targets))


def test_response_positions_need_a_response(tiny_llama, examples):
    targets = find_targets(tiny_llama, targets=["o_proj"])
    silent = batches([example for example in examples if not example.response_ids], batch_tokens=64, pad_id=0)
    assert collect_inputs(tiny_llama, silent, targets).supervised == 0
    with pytest.raises(DataError, match="no position"):
        collect_inputs(tiny_llama, silent, targets, tokens="response")
    with pytest.raises(DataError, match="no calibration batch"):
        collect_inputs(tiny_llama, [], targets)


def test_what_was_not_collected_is_named(tiny_llama, queue, tmp_path):
    targets = find_targets(tiny_llama, targets=["o_proj"])
    moments = collect_inputs(tiny_llama, queue, targets)
    with pytest.raises(DataError, match="q_proj"):
        moments.second_moment("model.layers.0.self_attn.q_proj")
    with pytest.raises(DataError, match="sample by sample"):
        moments.scaled_second_moment(targets[0])
    moments.save(tmp_path / "inputs.safetensors")
    from farss.statistics.curvature import Curvature

    with pytest.raises(StorageError, match="no curvature"):
        Curvature.load(tmp_path / "inputs.safetensors")
    tiny_llama.model.layers[0].spare = torch.nn.Linear(32, 32)
    with pytest.raises(ModelError, match="spare"):
        collect_inputs(tiny_llama, queue, find_targets(tiny_llama))


def test_what_is_not_finite_is_refused(tiny_llama, queue):
    tiny_llama.model.embed_tokens.weight.data[:] = float("nan")
    moments = collect_inputs(tiny_llama, queue, find_targets(tiny_llama, targets=["o_proj"]))
    with pytest.raises(NumericalError, match="not finite"):
        moments.second_moment("model.layers.0.self_attn.o_proj")


def test_prompts_are_encoded_without_a_response(tiny_tokenizer):
    short, cut = encode_prompts(["Why?", "Where is it?"], tiny_tokenizer, 6)
    assert tiny_tokenizer.decode(short.prompt_ids) == "Why?" and short.response_ids == ()
    assert tiny_tokenizer.decode(cut.prompt_ids) == "Where "
    for prompts in ([], ["x", ""]):
        with pytest.raises(DataError, match="empty"):
            encode_prompts(prompts, tiny_tokenizer, 6)
