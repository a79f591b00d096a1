"""As much of vLLM's interface as the back end uses, computed plainly on a model in memory.

Written from vLLM's documentation of `LLM.generate`, `SamplingParams`, `RequestOutput` and `LoRARequest`; what it is
called with is checked as strictly as vLLM does.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer


@dataclass
class SamplingParams:
    temperature: float = 1.0
    max_tokens: int = 16
    stop: list[str] | None = None
    stop_token_ids: list[int] | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True

    def __post_init__(self):
        if self.stop and not self.detokenize:
            raise ValueError("stop strings are only supported when detokenize is True")


@dataclass(frozen=True)
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


@dataclass(frozen=True)
class Logprob:
    logprob: float
    rank: int
    decoded_token: str | None = None


@dataclass(frozen=True)
class CompletionOutput:
    token_ids: list[int]


@dataclass(frozen=True)
class RequestOutput:
    prompt_logprobs: list[dict[int, Logprob] | None] | None
    outputs: list[CompletionOutput]


MODEL_LENGTH = 2048


def language_model(load, made):
    """The class `LLM`, over the model and tokenizer that `load(folder)` gives; what it is made with goes to `made`."""

    class LLM:
        def __init__(self, model: str, dtype: str = "auto", enable_lora: bool = False, max_lora_rank: int = 16, **more):
            made.append(
                {"model": model, "dtype": dtype, "max_lora_rank": max_lora_rank if enable_lora else None} | more
            )
            self.enable_lora, self.max_lora_rank = enable_lora, max_lora_rank
            limit = more.get("max_model_len", MODEL_LENGTH)
            self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=limit))
            self.model, self.tokenizer = load(model)

        def get_tokenizer(self) -> Any:
            return self.tokenizer

        def generate(self, prompts, sampling_params, use_tqdm=True, lora_request=None):
            served = self.model
            assert all(
                len(prompt["prompt_token_ids"]) < self.llm_engine.model_config.max_model_len for prompt in prompts
            )
            if lora_request is not None:
                assert self.enable_lora
                served = PeftModel.from_pretrained(self.model, lora_request.lora_path)
                assert max(config.r for config in served.peft_config.values()) <= self.max_lora_rank
            try:
                texts = [prompt["prompt_token_ids"] for prompt in prompts]
                return [_answer(served, self.tokenizer, text, sampling_params) for text in texts]
            finally:
                if lora_request is not None:
                    served.unload()

    return LLM


def install(monkeypatch, model, tokenizer, made):
    """Make `import vllm` give this stub over `model`; arguments of every `LLM` are appended to `made`."""
    package, lora, request = ModuleType("vllm"), ModuleType("vllm.lora"), ModuleType("vllm.lora.request")
    package.LLM, package.SamplingParams = language_model(lambda _: (model, tokenizer), made), SamplingParams
    request.LoRARequest = LoRARequest
    for name, module in (("vllm", package), ("vllm.lora", lora), ("vllm.lora.request", request)):
        monkeypatch.setitem(sys.modules, name, module)


def from_folder(folder):
    """The model and tokenizer of a folder, as a process of its own loads them."""
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def plant(site: Path) -> None:
    """A package `vllm` in the folder `site`, for processes that find it there; it loads the folder it is told."""
    place = site / "vllm" / "lora"
    place.mkdir(parents=True)
    shutil.copy(__file__, site / "vllm_stub.py")
    (site / "vllm" / "__init__.py").write_text(
        "from vllm_stub import SamplingParams, from_folder, language_model\n\nLLM = language_model(from_folder, [])\n"
    )
    (place / "__init__.py").write_text("")
    (place / "request.py").write_text("from vllm_stub import LoRARequest\n")


@torch.no_grad()
def _answer(model, tokenizer, ids, sampling):
    assert ids and all(isinstance(token, int) for token in ids) and sampling.temperature == 0.0
    table = None
    if sampling.prompt_logprobs is not None:
        table = [None]
        for row, token in zip(model(torch.tensor([ids])).logits[0].float().log_softmax(-1), ids[1:], strict=False):
            ranked = {int(row.argmax()): Logprob(float(row.max()), 1)}
            ranked[token] = Logprob(float(row[token]), int((row > row[token]).sum()) + 1)
            table.append(ranked)
    written: list[int] = []
    while len(written) < sampling.max_tokens:
        written.append(int(model(torch.tensor([[*ids, *written]])).logits[0, -1].argmax()))
        said = tokenizer.decode(written, skip_special_tokens=True)
        ends = {tokenizer.eos_token_id, *(sampling.stop_token_ids or ())}
        if written[-1] in ends or any(stop in said for stop in sampling.stop or ()):
            break
    return RequestOutput(table, [CompletionOutput(written)])
