"""Block by block, from weights on disk, the data pass gives what it gives on a model in memory."""

from __future__ import annotations

import gc
import os
import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file

from farss.errors import DataError, ModelError
from farss.model.blocks import NotAChain
from farss.model.calibration import Example, batches
from farss.model.checkpoint import load_folder
from farss.model.lazy import LazyWeights, skeleton
from farss.model.targets import find_targets, weight_matrix
from farss.statistics.curvature import collect
from farss.statistics.states import DiskStates
from farss.statistics.streamed import Walk

LAYOUTS = ["tiny_llama", "tiny_gqa", "tiny_qwen", "tiny_gpt2", "tiny_gemma3"]


def queue_of(side="right", rows=6):
    generator = torch.Generator().manual_seed(1)

    def ids(count):
        return tuple(torch.randint(4, 90, (count,), generator=generator).tolist())

    return batches([Example(ids(5 + i), ids(4)) for i in range(rows)], batch_tokens=30, pad_id=0, side=side)


class Kept:
    """Keeps what a walk delivers, with the weights it was delivered beside."""

    def __init__(self, targets):
        self.targets, self.curvature, self.pairs = targets, {}, {}

    def has(self, index):
        return index in self.curvature

    def receive(self, index, parts):
        curvature = self.curvature[index] = parts[0] if parts else None
        for target in self.targets:
            if target.layer == index:
                self.pairs[target.name] = curvature.pair(target.name, weight_matrix(target))


def saved(model, tokenizer, folder, dtype=torch.float64, shard="1GB"):
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    tokenizer.save_pretrained(folder)
    return folder


def walked(folder, queue, dtype="checkpoint", states=None, **settings):
    model, kind = skeleton(folder, dtype)
    targets = find_targets(model, in_memory=False)
    kept = Kept(targets)
    Walk(model, LazyWeights(folder, model, kind), targets, queue, states=states, **settings).run(kept)
    assert all(parameter.is_meta for parameter in model.parameters())
    return kept


def assert_equal(kept, folder, queue, relative, **settings):
    model = load_folder(folder)[0]
    targets = find_targets(model)
    resident = collect(model, queue, targets, **settings)
    assert {c.tokens for c in kept.curvature.values()} == {resident.tokens}
    for target in targets:
        for mine, other in zip(kept.pairs[target.name], resident.pair(target), strict=True):
            assert float((mine - other).norm()) <= relative * float(other.norm()), target.name


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_the_moments_are_those_of_the_resident_pass(request, layout, side, tiny_tokenizer, tmp_path):
    model = request.getfixturevalue(layout)
    folder = saved(model, tiny_tokenizer, tmp_path / "model", shard="20KB")
    queue = queue_of(side)
    assert_equal(walked(folder, queue), folder, queue, 1e-9)


@pytest.mark.parametrize(
    "settings",
    [{"tokens": "response"}, {"tokens": "all"}, {"loss_norm": "batch_mean"}, {"fisher": "sampled", "seed": 3}],
    ids=str,
)
def test_under_every_setting(settings, tiny_gqa, tiny_tokenizer, tmp_path):
    folder = saved(tiny_gqa, tiny_tokenizer, tmp_path / "model")
    queue = queue_of()
    assert_equal(walked(folder, queue, **settings), folder, queue, 1e-9, **settings)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_in_the_dtype_of_the_checkpoint(dtype, tiny_llama, tiny_tokenizer, tmp_path):
    folder = saved(tiny_llama, tiny_tokenizer, tmp_path / "model", getattr(torch, dtype))
    queue = queue_of()
    assert_equal(walked(folder, queue), folder, queue, {"float32": 1e-5, "bfloat16": 2e-2, "float16": 2e-3}[dtype])


def test_a_model_in_memory_can_be_walked_too(tiny_qwen):
    tiny_qwen.double()
    targets, queue = find_targets(tiny_qwen), queue_of()
    before = {name: value.clone() for name, value in tiny_qwen.state_dict().items()}
    kept = Kept(targets)
    Walk(tiny_qwen, None, targets, queue).run(kept)
    resident = collect(tiny_qwen, queue, targets)
    for target in targets:
        for mine, other in zip(kept.pairs[target.name], resident.pair(target), strict=True):
            assert float((mine - other).norm()) <= 1e-9 * float(other.norm()), target.name
    assert all(torch.equal(value, before[name]) for name, value in tiny_qwen.state_dict().items())
    assert not any("forward" in vars(module) for module in tiny_qwen.modules())
    assert all(p.requires_grad and p.grad is None for p in tiny_qwen.parameters())


@pytest.mark.parametrize("fisher", ["empirical", "sampled"])
def test_parts_of_the_data_are_walked_together_as_each_alone(fisher, tiny_gqa, tiny_tokenizer, tmp_path):
    folder = saved(tiny_gqa, tiny_tokenizer, tmp_path / "model")
    queue = queue_of()
    parts = [queue[:1], queue[1:]]
    model, kind = skeleton(folder)
    targets = find_targets(model, in_memory=False)
    found = {}

    class Both:
        def has(self, index):
            return index in found

        def receive(self, index, parts):
            found[index] = parts

    settings = {"fisher": fisher, "max_batches": 2}
    Walk(model, LazyWeights(folder, model, kind), targets, parts[0], others=parts[1:], **settings).run(Both())
    for number, part in enumerate(parts):
        alone = walked(folder, part, **settings)
        for index, curvatures in found.items():
            assert len(curvatures) == 2
            mine, other = curvatures[number], alone.curvature[index]
            assert (mine.tokens, mine.supervised, mine.sequences) == (other.tokens, other.supervised, other.sequences)
            assert mine.sums.keys() == other.sums.keys()
            assert all(torch.equal(mine.sums[key].packed, other.sums[key].packed) for key in mine.sums)


def test_a_part_without_batches_is_refused(tiny_llama):
    with pytest.raises(DataError, match="no calibration batch"):
        Walk(tiny_llama, None, find_targets(tiny_llama), queue_of(), others=[[]])


def test_states_on_disk_give_the_same_bits_and_are_gone_afterwards(tiny_gqa, tiny_tokenizer, tmp_path):
    folder = saved(tiny_gqa, tiny_tokenizer, tmp_path / "model")
    queue = queue_of()
    in_memory, on_disk = walked(folder, queue), walked(folder, queue, states=DiskStates(tmp_path / "states"))
    for name, pair in in_memory.pairs.items():
        assert all(torch.equal(a, b) for a, b in zip(pair, on_disk.pairs[name], strict=True))
    left = sorted(path.name for path in (tmp_path / "states").iterdir())
    assert left == ["gradient-0000"]


class Interrupted(Exception):
    pass


class Breaking(DiskStates):
    """States on disk whose process dies at one write."""

    def __init__(self, folder, write):
        super().__init__(folder)
        self.left = write

    def write(self, kind, boundary, batch, state):
        if self.left == 0:
            raise Interrupted
        self.left -= 1
        super().write(kind, boundary, batch, state)


@pytest.mark.parametrize("fisher", ["empirical", "sampled"])
def test_interrupted_anywhere_it_ends_with_the_same_bits(fisher, tiny_gqa, tiny_tokenizer, tmp_path):
    folder = saved(tiny_gqa, tiny_tokenizer, tmp_path / "model")
    queue = queue_of(rows=4)
    whole = walked(folder, queue, fisher=fisher)
    model, kind = skeleton(folder)
    targets = find_targets(model, in_memory=False)

    def walk(states):
        return Walk(model, LazyWeights(folder, model, kind), targets, queue, fisher=fisher, states=states)

    writes = len(queue) * 2 * 4  # a hidden state and a gradient at each of the four boundaries
    for write in range(writes):
        place, kept = tmp_path / f"states-{write}", Kept(targets)
        with pytest.raises(Interrupted):
            walk(Breaking(place, write)).run(kept)
        before = set(kept.curvature)
        walk(DiskStates(place)).run(kept)
        assert set(kept.curvature) == {0, 1, 2}
        assert before == set(sorted(kept.curvature, reverse=True)[: len(before)])
        for name, pair in whole.pairs.items():
            assert all(torch.equal(a, b) for a, b in zip(pair, kept.pairs[name], strict=True)), (write, name)


def test_only_one_block_is_ever_loaded(tiny_llama, tiny_tokenizer, tmp_path):
    folder = saved(tiny_llama, tiny_tokenizer, tmp_path / "model")
    seen = set()

    class Watching(Kept):
        def receive(self, index, parts):
            blocks = self.model.model.layers
            loaded = tuple(i for i, b in enumerate(blocks) if not any(p.is_meta for p in b.parameters()))
            seen.add((index, loaded))

    model, kind = skeleton(folder)
    targets = find_targets(model, in_memory=False)
    watching = Watching(targets)
    watching.model = model
    Walk(model, LazyWeights(folder, model, kind), targets, queue_of()).run(watching)
    assert seen == {(0, (0,)), (1, (1,)), (2, (2,))}


def test_the_sums_of_a_block_are_gone_before_the_next_block_is_received(tiny_llama, tiny_tokenizer, tmp_path):
    folder = saved(tiny_llama, tiny_tokenizer, tmp_path / "model")
    model, kind = skeleton(folder)
    targets = find_targets(model, in_memory=False)
    received, left = [], []

    class Forgetting:
        def has(self, index):
            return False

        def receive(self, index, parts):
            (curvature,) = parts
            left.append(sum(earlier() is not None for earlier in received))
            received.append(weakref.ref(curvature))

    gc.disable()  # sums in a reference cycle would stay until it runs, at no moment that memory can count on
    try:
        Walk(model, LazyWeights(folder, model, kind), targets, queue_of()).run(Forgetting())
    finally:
        gc.enable()
    assert len(left) > 1
    assert not any(left)


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system takes no such advice")
def test_the_next_block_is_announced_to_the_system_byte_for_byte(tiny_gqa, tiny_tokenizer, tmp_path, monkeypatch):
    folder = saved(tiny_gqa, tiny_tokenizer, tmp_path / "model", shard="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    advised = []

    def advise(descriptor, start, length, advice):
        advised.append(os.pread(descriptor, length, start))
        assert advice == os.POSIX_FADV_WILLNEED

    monkeypatch.setattr(os, "posix_fadvise", advise)
    walked(folder, queue_of())
    stored = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}

    def weights_of(block):
        return [stored[name].numpy().tobytes() for name, _ in tiny_gqa.named_parameters() if f"layers.{block}." in name]

    assert advised == [raw for block in (1, 2, 1, 0) for raw in weights_of(block)]


def test_without_such_advice_the_walk_reads_as_it_goes(tiny_gqa, tiny_tokenizer, tmp_path, monkeypatch):
    folder = saved(tiny_gqa, tiny_tokenizer, tmp_path / "model")
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    assert_equal(walked(folder, queue_of()), folder, queue_of(), relative=1e-9)


def test_blocks_without_targets_pass_the_gradient_on(tiny_llama, tiny_tokenizer, tmp_path):
    folder = saved(tiny_llama, tiny_tokenizer, tmp_path / "model")
    queue = queue_of()
    model, kind = skeleton(folder)
    targets = find_targets(model, exclude=[r"model\.layers\.1\..*"], in_memory=False)
    kept = Kept(targets)
    Walk(model, LazyWeights(folder, model, kind), targets, queue).run(kept)
    assert kept.curvature[1] is None
    whole = walked(folder, queue)
    for name, pair in kept.pairs.items():
        assert all(torch.equal(a, b) for a, b in zip(pair, whole.pairs[name], strict=True))


def test_progress_ends_at_its_total(tiny_llama, tiny_tokenizer, tmp_path):
    folder = saved(tiny_llama, tiny_tokenizer, tmp_path / "model")
    reports = []
    walked(folder, queue_of(), progress=lambda done, total: reports.append((done, total)))
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)
    assert reports[-1][0] == reports[-1][1]


@pytest.mark.parametrize("where", ["embedding", "block"])
def test_a_weight_that_is_not_a_number_is_named(where, tiny_llama, tiny_tokenizer, tmp_path):
    layer = tiny_llama.model.layers[2].mlp.up_proj if where == "block" else tiny_llama.model.embed_tokens
    layer.weight.data[3, 3] = float("nan")
    folder = saved(tiny_llama, tiny_tokenizer, tmp_path / "model")
    with pytest.raises(ModelError, match="layers.2.mlp.up_proj" if where == "block" else "embed_tokens"):
        walked(folder, queue_of())


def test_a_checkpoint_with_other_names_is_refused(tiny_llama, tiny_tokenizer, tmp_path):
    folder = saved(tiny_llama, tiny_tokenizer, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.strange.weight"] = tensors.pop("model.layers.0.mlp.up_proj.weight")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match="names its weights differently"):
        walked(folder, queue_of())


def test_a_model_with_an_encoder_and_a_decoder_is_no_chain():
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_heads": 2, "num_layers": 2, "vocab_size": 100}
    model = T5ForConditionalGeneration(T5Config(**sizes))
    with pytest.raises(NotAChain, match="no single chain"):
        Walk(model, None, find_targets(model), queue_of())


@pytest.mark.parametrize("calls", [(0, 0, 1, 2), (0, 1, 2, 2), (0, 1, 2, 0)], ids=str)
def test_a_block_called_twice_is_no_chain(calls, tiny_llama):
    layers = tiny_llama.model.layers
    original = type(tiny_llama.model).forward

    def twice(self, *args, **kwargs):
        self.layers = torch.nn.ModuleList(layers[index] for index in calls)
        try:
            return original(self, *args, **kwargs)
        finally:
            self.layers = layers

    tiny_llama.model.config.num_hidden_layers = 4
    tiny_llama.model.forward = twice.__get__(tiny_llama.model)
    with pytest.raises(NotAChain, match="one after the other"):
        Walk(tiny_llama, None, find_targets(tiny_llama), queue_of()).run(Kept([]))
