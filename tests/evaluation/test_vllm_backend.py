"""vLLM as the back end: what it is asked, and that the measurements are those of PyTorch."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from farss.datasets.knowledge import KnowledgeSet, Question
from farss.errors import AdapterError, ConfigError, DataError, NumericalError
from farss.evaluation.backends import TorchBackend
from farss.evaluation.knowledge import measure_knowledge
from farss.evaluation.task import TaskSet, measure_task
from farss.evaluation.vllm_backend import VllmBackend
from farss.model.calibration import Example
from farss.model.ends import stop_at_

_SPEC = importlib.util.spec_from_file_location("vllm_stub", Path(__file__).with_name("vllm_stub.py"))
vllm_stub = importlib.util.module_from_spec(_SPEC)
sys.modules["vllm_stub"] = vllm_stub  # its dataclasses look their module up
_SPEC.loader.exec_module(vllm_stub)

PREFIX = "Q: capital of Peru?\nA: Lima\n\n"


@pytest.fixture
def made(monkeypatch, tiny_llama, tiny_tokenizer):
    found = []
    vllm_stub.install(monkeypatch, tiny_llama, tiny_tokenizer, found)
    return found


def knowledge():
    asked = [Question("s", str(i), f"Q: {'so ' * i}who?\nA:", ("Bern",), ("Oslo", "Rome"), None) for i in range(3)]
    cloze = [Question("c", "1", "Bern is the capital of", ("Peru",), (), None)]
    return [KnowledgeSet("s", PREFIX, asked), KnowledgeSet("c", "", cloze)]


def task(tokenizer):
    prompts = ["Question: a?\nAnswer:", "Question: bb?\nAnswer:"]
    examples = [Example(tuple(tokenizer(p)["input_ids"]), (*tokenizer(" x")["input_ids"], 1)) for p in prompts]
    return TaskSet("problems", examples, prompts, ["18", None])


def lora(model, folder, **settings):
    torch.manual_seed(0)
    wrapped = get_peft_model(model, LoraConfig(r=4, init_lora_weights=False, target_modules=["q_proj"], **settings))
    wrapped.save_pretrained(folder)
    wrapped.unload()
    return folder


def assert_same(mine, other):
    for a, b in zip(mine, other, strict=True):
        for name, value in dataclasses.asdict(a).items():
            expected = dataclasses.asdict(b)[name]
            assert value == (pytest.approx(expected, abs=1e-5) if isinstance(value, float) else expected), name


@pytest.mark.parametrize("adapted", [False, True])
def test_the_measurements_are_those_of_pytorch(adapted, made, tiny_llama, tiny_tokenizer, tmp_path):
    from peft import PeftModel

    folder = lora(tiny_llama, tmp_path / "adapter") if adapted else None
    served = VllmBackend("folder", folder, dtype="float32", gpu_memory_utilization=0.5)
    found = measure_knowledge(served, knowledge(), generate=True, choices=True)
    solved = measure_task(served, task(tiny_tokenizer), generate_rows=2, max_new_tokens=5)
    model = PeftModel.from_pretrained(tiny_llama, folder) if adapted else tiny_llama
    plain = TorchBackend(model, tiny_tokenizer)
    assert_same(found, measure_knowledge(plain, knowledge(), generate=True, choices=True))
    assert_same(solved, measure_task(plain, task(tiny_tokenizer), generate_rows=2, max_new_tokens=5))
    rank = 8 if adapted else None
    assert made == [{"model": "folder", "dtype": "float32", "gpu_memory_utilization": 0.5, "max_lora_rank": rank}]


def test_the_ends_that_a_model_is_told_end_its_answers_in_both(made, tiny_llama, tiny_tokenizer):
    asked = {"max_new_tokens": 6, "stop": (), "batch_size": 1}
    prompt = "What?"
    ids = tiny_tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    third = tiny_llama.generate(**ids, max_new_tokens=3, min_new_tokens=3, do_sample=False)[0, -1]
    tiny_llama.lm_head.weight.data[3] = 1.02 * tiny_llama.lm_head.weight.data[third]  # it writes this token instead
    plain = TorchBackend(tiny_llama, tiny_tokenizer).generate([prompt], **asked)
    assert VllmBackend("folder").generate([prompt], **asked) == plain
    stop_at_(tiny_llama, [3])
    short = TorchBackend(tiny_llama, tiny_tokenizer).generate([prompt], **asked)
    assert VllmBackend("folder", ends=lambda tokenizer: [3]).generate([prompt], **asked) == short
    assert plain[0].startswith(short[0]) and len(short[0]) < len(plain[0])


def test_progress_reaches_its_total(made, tiny_tokenizer, monkeypatch):
    monkeypatch.setattr("farss.evaluation.vllm_backend.REQUESTS", 2)
    seen = []
    measure_knowledge(
        VllmBackend("folder"), knowledge(), generate=True, choices=True, progress=lambda *done: seen.append(done)
    )
    assert seen[-1] == (14, 14) and [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_adapters_of_several_ranks_are_refused(made, tiny_llama, tmp_path):
    folder = lora(tiny_llama, tmp_path / "adapter", rank_pattern={"layers.0.self_attn.q_proj": 2})
    with pytest.raises(AdapterError, match="one rank and scale"):
        VllmBackend("folder", folder)
    assert made == []


def test_a_folder_without_an_adapter_is_refused(made, tmp_path):
    with pytest.raises(AdapterError, match="holds no adapter"):
        VllmBackend("folder", tmp_path)


def test_ranks_beyond_what_is_served_are_refused(made, tiny_llama, tmp_path):
    folder = lora(tiny_llama, tmp_path / "adapter")
    file = folder / "adapter_config.json"
    file.write_text(file.read_text().replace('"r": 4', '"r": 1024'))
    with pytest.raises(AdapterError, match="above what vLLM serves"):
        VllmBackend("folder", folder)


def test_a_model_that_gives_no_numbers_is_noticed(made, tiny_llama):
    tiny_llama.lm_head.weight.data[5] = float("nan")
    with pytest.raises(NumericalError, match="NaN"):
        measure_knowledge(VllmBackend("folder"), knowledge(), generate=False, choices=False)


def test_texts_beyond_the_length_vllm_was_started_for_are_refused(made):
    served = VllmBackend("folder", max_model_len=12)
    assert served.generate(["Bern"], max_new_tokens=2, stop=(), batch_size=1)
    with pytest.raises(DataError, match=r"text 1\s+expected: at most 12 tokens"):
        served.generate(["Bern", "Bern is the capital of what"], max_new_tokens=2, stop=(), batch_size=1)


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match=r"farss\[vllm\]"):
        VllmBackend("folder")
