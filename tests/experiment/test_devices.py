"""Everything follows the model to its device: shown on a pretended one, which refuses to mix with the processor's."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from farss.adapters.apply import apply
from farss.adapters.update import scaled_update
from farss.adapters.verify import logits, sample_inputs
from farss.config import FarssConfig, HeadConfig, Recipe
from farss.datasets.knowledge import KnowledgeSet, Question
from farss.errors import ConfigError
from farss.evaluation.backends import TorchBackend
from farss.evaluation.glue import predict
from farss.evaluation.knowledge import measure_knowledge
from farss.evaluation.task import TaskSet, measure_task
from farss.experiment import environment
from farss.experiment.initialisation.planning import prepare
from farss.methods import METHODS
from farss.model.calibration import Example, batches
from farss.model.classification import LabelledExample, labelled_batches
from farss.model.devices import free_bytes, place
from farss.model.lazy import LazyWeights, skeleton
from farss.model.spectra import SpectrumCache
from farss.model.targets import find_targets, weight_matrix
from farss.model.timing import calibrate
from farss.statistics.curvature import collect
from farss.statistics.streamed import Walk
from farss.training.head import warm_up_head_

_SPEC = importlib.util.spec_from_file_location("elsewhere", Path(__file__).parents[1] / "elsewhere.py")
elsewhere = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(elsewhere)

RANKS = FarssConfig(rank=4, r_min=1, r_avg=2, r_max=3, shallow_layers=1)


@pytest.fixture
def device(monkeypatch):
    with elsewhere.pretending(monkeypatch):
        yield elsewhere.ELSEWHERE


def moved(model, device):
    model = copy.deepcopy(model).to(device)
    model.tie_weights()
    return model


def queue_of(rows=6):
    generator = torch.Generator().manual_seed(1)

    def ids(count):
        return tuple(torch.randint(4, 90, (count,), generator=generator).tolist())

    return batches([Example(ids(5 + i), ids(4)) for i in range(rows)], batch_tokens=30, pad_id=0)


def test_the_pretended_device_refuses_what_was_left_behind(device, tiny_llama):
    ids = torch.arange(4, 12)[None]
    model = moved(tiny_llama, device)
    with pytest.raises(RuntimeError, match="still on the processor"):
        model(ids)
    assert torch.equal(model(ids.to(device)).logits.cpu(), tiny_llama(ids).logits)


def test_the_data_pass(device, tiny_gqa):
    model = moved(tiny_gqa, device)
    found, expected = (
        collect(model, queue_of(), find_targets(model)),
        collect(tiny_gqa, queue_of(), find_targets(tiny_gqa)),
    )
    assert {s.packed.device for s in found.sums.values()} == {device}
    for key, sums in expected.sums.items():
        assert torch.allclose(found.sums[key].packed.cpu(), sums.packed, rtol=1e-5, atol=1e-6), key


def test_the_walk_over_blocks(device, tiny_gqa, tiny_tokenizer, tmp_path):
    tiny_gqa.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    found = {}

    class Kept:
        def has(self, index):
            return index in found

        def receive(self, index, parts):
            (curvature,) = parts
            blocks = [target for target in targets if target.layer == index]
            found[index] = {t.name: curvature.pair(t.name, weight_matrix(t)) for t in blocks}

    model, kind = skeleton(tmp_path)
    targets = find_targets(model, in_memory=False)
    Walk(model, LazyWeights(tmp_path, model, kind, device), targets, queue_of()).run(Kept())
    expected = collect(tiny_gqa, queue_of(), find_targets(tiny_gqa))
    for target in find_targets(tiny_gqa):
        for mine, other in zip(found[target.layer][target.name], expected.pair(target), strict=True):
            assert torch.allclose(mine.cpu(), other, rtol=1e-4, atol=1e-5), target.name


@pytest.mark.parametrize("method", [name for name in METHODS if name != "full"])
def test_every_method_plans_starts_and_scales_there(method, device, tiny_gqa, tmp_path):
    def wrapped(model):
        cache = SpectrumCache(tmp_path / str(next(model.parameters()).device.type))
        ready = prepare(model, queue_of(), RANKS, [method], spectra=cache, knowledge=queue_of())
        return apply(model, ready.plans[method], lambda target: cache.get(target, "gram")), ready.plans[method]

    base = logits(tiny_gqa, sample_inputs(tiny_gqa))
    here, expected = wrapped(copy.deepcopy(tiny_gqa))
    there, found = wrapped(moved(tiny_gqa, device))
    assert [(t.name, t.rank, t.indices) for t in found.targets] == [
        (t.name, t.rank, t.indices) for t in expected.targets
    ]
    assert torch.allclose(logits(there, sample_inputs(there)).cpu(), logits(here, sample_inputs(here)), atol=1e-4)
    with scaled_update(there, 0.0):
        assert torch.allclose(logits(there, sample_inputs(there)).cpu(), base, atol=1e-4)


def test_a_classifier_is_warmed_up_planned_and_asked_there(device, tmp_path):
    config = BertConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        initializer_range=0.1,
    )
    texts = [LabelledExample(tuple(range(4, 9 + i)), (), i % 2) for i in range(6)]
    queue = labelled_batches(texts, batch_tokens=40, pad_id=0)
    torch.manual_seed(0)
    model = BertForSequenceClassification(config).eval()

    def done(model, name):
        warm_up_head_(model, texts, HeadConfig(warmup_steps=2), pad_id=0)
        cache = SpectrumCache(tmp_path / name)
        ready = prepare(model, queue, RANKS, ["farss"], spectra=cache)
        wrapped = apply(model, ready.plans["farss"], lambda target: cache.get(target, "gram"))
        return [t.indices for t in ready.plans["farss"].targets], predict(wrapped, texts, pad_id=0)

    (found, answers), (expected, others) = done(moved(model, device), "there"), done(model, "here")
    assert found == expected
    assert [x for row in answers for x in row] == pytest.approx([x for row in others for x in row], abs=1e-4)


def test_measuring(device, tiny_gqa, tiny_tokenizer):
    asked = [Question("s", str(i), f"Q: {'so ' * i}who?\nA:", ("Bern",), ("Oslo", "Rome"), None) for i in range(3)]
    sets = [KnowledgeSet("s", "Q: x?\nA: y\n\n", asked), KnowledgeSet("c", "", asked)]
    prompts = ["Question: a?\nAnswer:", "Question: bb?\nAnswer:"]
    examples = [Example(tuple(tiny_tokenizer(p)["input_ids"]), (5, 6, 1)) for p in prompts]
    task = TaskSet("t", examples, prompts, ["18", "7"])

    def measured(model):
        backend = TorchBackend(model, tiny_tokenizer)
        samples = measure_knowledge(backend, sets, generate=True, choices=True)
        return samples, measure_task(backend, task, generate_rows=2, max_new_tokens=5)

    (knowledge, solved), (expected, worked) = measured(moved(tiny_gqa, device)), measured(tiny_gqa)
    assert [(s.words, s.choice, s.hit) for s in knowledge] == [(s.words, s.choice, s.hit) for s in expected]
    assert [s.log_prob for s in knowledge] == pytest.approx([s.log_prob for s in expected], abs=1e-5)
    assert [(s.words, s.correct) for s in solved] == [(s.words, s.correct) for s in worked]
    assert [s.loss for s in solved] == pytest.approx([s.loss for s in worked], abs=1e-4)


def test_the_machine_is_timed_where_the_model_will_be(device):
    assert calibrate(torch.float32, device=device).model_flops > 0


def test_the_processor_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert place("auto") == place("cpu") == torch.device("cpu") and Recipe().device == "auto"
    assert free_bytes(place()) > 0
    with pytest.raises(ConfigError, match="sees no GPU"):
        place("cuda")


def test_processes_on_one_machine_share_its_memory(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=12_000))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8_000, 9_000))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 1)
    assert (free_bytes(cpu), free_bytes(gpu)) == (12_000, 8_000)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert (free_bytes(cpu), free_bytes(gpu)) == (4_000, 4_000)


def test_a_gpu_where_there_is_one_and_each_process_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert place("auto") == place("cuda") == torch.device("cuda:0") and place("cpu") == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert place("auto") == torch.device("cuda:1")


def test_a_result_names_what_computed_it(monkeypatch):
    gpu = SimpleNamespace(name="a GPU", total_memory=7)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    assert environment.device()["name"] == environment.device("cuda")["name"] == "a GPU"
    assert environment.device("cpu")["name"] != "a GPU" and environment.device("cpu")["memory_bytes"] != 7


def test_an_unknown_device_is_refused():
    with pytest.raises(ConfigError, match="device"):
        Recipe().override({"device": "gpu"})
