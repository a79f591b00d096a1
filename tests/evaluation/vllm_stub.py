"""As much of vLLM's interface as the back end uses, computed plainly on a model in memory.

Written from vLLM's documentation of `LLM.generate`, `SamplingParams`, `RequestOutput` and `LoRARequest`; what it is
called with is checked as strictly as vLLM does.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from peft import PeftModel


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


def install(monkeypatch, model, tokenizer, made):
    """Make `import vllm` give this stub over `model`; arguments of every `LLM` are appended to `made`."""

    model_length = 2048

    class LLM:
        def __init__(self, model: str, dtype: str = "auto", enable_lora: bool = False, max_lora_rank: int = 16, **more):
            made.append(
                {"model": model, "dtype": dtype, "max_lora_rank": max_lora_rank if enable_lora else None} | more
            )
            self.enable_lora, self.max_lora_rank = enable_lora, max_lora_rank
            limit = more.get("max_model_len", model_length)
            self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=limit))

        def get_tokenizer(self) -> Any:
            return tokenizer

        def generate(self, prompts, sampling_params, use_tqdm=True, lora_request=None):
            served = model
            assert all(
                len(prompt["prompt_token_ids"]) < self.llm_engine.model_config.max_model_len for prompt in prompts
            )
            if lora_request is not None:
                assert self.enable_lora
                served = PeftModel.from_pretrained(model, lora_request.lora_path)
                assert max(config.r for config in served.peft_config.values()) <= self.max_lora_rank
            try:
                return [_answer(served, tokenizer, prompt["prompt_token_ids"], sampling_params) for prompt in prompts]
            finally:
                if lora_request is not None:
                    served.unload()

    package, lora, request = ModuleType("vllm"), ModuleType("vllm.lora"), ModuleType("vllm.lora.request")
    package.LLM, package.SamplingParams, request.LoRARequest = LLM, SamplingParams, LoRARequest
    for name, module in (("vllm", package), ("vllm.lora", lora), ("vllm.lora.request", request)):
        monkeypatch.setitem(sys.modules, name, module)


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
