"""vLLM as the back end of a measurement: the same questions and token ids, read and written by its scheduler.

Likelihoods are vLLM's `prompt_logprobs` of the very token ids that PyTorch would score; words are its greedy
continuation of the same ids, cut by the same rule. Kernels differ, so figures agree to rounding, not to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from farss.adapters.files import read_config
from farss.errors import AdapterError, ConfigError, DataError, NumericalError
from farss.evaluation.generation import Ending
from farss.evaluation.likelihood import Continuation, TokenScores, answers_of, continuations, summed_answers
from farss.evaluation.prefix import encode
from farss.evaluation.records import Progress
from farss.model.calibration import Example

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values vLLM takes for `max_lora_rank`."""

REQUESTS = 512
"""Requests handed over at once; vLLM batches them itself, and progress is told in between."""

PORTABLE = "write it with: farss export --to portable"


class VllmBackend:
    """A model served by vLLM in this process, with at most one adapter.

    Args:
        model: a model folder or hub id.
        adapter: a PEFT LoRA folder with one rank and scale for all modules (`farss export --to portable`); None for the
            model alone.
        dtype: of the computation, "auto" for the checkpoint's.
        ends: given the tokenizer, ids of tokens that end an answer beside its end of sequence.
        settings: further arguments of `vllm.LLM`, for example `gpu_memory_utilization`.

    Raises:
        ConfigError: if vLLM is not installed.
        AdapterError: if vLLM cannot serve the adapter.
    """

    def __init__(
        self,
        model: str,
        adapter: str | Path | None = None,
        *,
        dtype: str = "auto",
        ends: Callable[[Any], Sequence[int]] | None = None,
        **settings: Any,
    ) -> None:
        self._vllm = _import()
        self._adapter = None
        if adapter is not None:
            settings |= {"enable_lora": True, "max_lora_rank": _served_rank(Path(adapter))}
            self._adapter = _lora_request()("adapter", 1, str(adapter))
        self._llm = self._vllm.LLM(model=model, dtype=dtype, **settings)
        self.tokenizer = self._llm.get_tokenizer()
        self.window: int | None = self._llm.llm_engine.model_config.max_model_len
        self._ends = [] if ends is None else list(ends(self.tokenizer))

    def answer_log_probs(
        self,
        prefix: str,
        prompts: Sequence[str],
        answers: Sequence[str],
        *,
        batch_tokens: int,
        progress: Progress | None = None,
    ) -> list[TokenScores]:
        """See `Backend`; `batch_tokens` is vLLM's own affair."""
        if not prompts and not answers:
            return []
        return self._score(continuations(self.tokenizer, [prefix + prompt for prompt in prompts], answers), progress)

    def response_losses(
        self, examples: Sequence[Example], *, batch_tokens: int, progress: Progress | None = None
    ) -> list[tuple[float, int]]:
        """See `Backend`; `batch_tokens` is vLLM's own affair."""
        pairs, owners = answers_of(examples)
        return summed_answers(self._score(pairs, progress), owners, len(examples))

    def continuation_scores(
        self, pairs: Sequence[Continuation], *, batch_tokens: int, progress: Progress | None = None
    ) -> list[TokenScores]:
        """See `Backend`; `batch_tokens` is vLLM's own affair."""
        return self._score(pairs, progress)

    def generate(
        self,
        prompts: Sequence[str],
        *,
        prefix: str = "",
        max_new_tokens: int,
        stop: tuple[str, ...],
        batch_size: int,
        progress: Progress | None = None,
    ) -> list[str]:
        """See `Backend`; `batch_size` is vLLM's own affair."""
        contexts = encode(self.tokenizer, [(prefix + prompt).rstrip(" ") for prompt in prompts])
        return self.generate_after(
            contexts, max_new_tokens=max_new_tokens, stop=stop, batch_size=batch_size, progress=progress
        )

    def generate_after(
        self,
        contexts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        stop: tuple[str, ...],
        batch_size: int,
        progress: Progress | None = None,
    ) -> list[str]:
        """See `Backend`; `batch_size` is vLLM's own affair."""
        greedy = self._vllm.SamplingParams(
            temperature=0.0, max_tokens=max_new_tokens, stop=list(stop), stop_token_ids=self._ends
        )
        ending = Ending(self.tokenizer, stop, frozenset(), max_new_tokens)
        found = self._answers([list(context) for context in contexts], greedy, progress)
        return [
            ending.cut(context, list(answer.outputs[0].token_ids))
            for context, answer in zip(contexts, found, strict=True)
        ]

    def _score(self, pairs: Sequence[Continuation], progress: Progress | None) -> list[TokenScores]:
        reading = self._vllm.SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=1, detokenize=False)
        texts = [[*pair.context, *pair.target] for pair in pairs]
        answers = self._answers(texts, reading, progress)
        return [_token_scores(answer.prompt_logprobs, pair.target) for answer, pair in zip(answers, pairs, strict=True)]

    def _answers(self, texts: Sequence[list[int]], sampling: Any, progress: Progress | None) -> Iterator[Any]:
        self._require_room(texts, sampling.max_tokens)
        for start in range(0, len(texts), REQUESTS):
            prompts = [{"prompt_token_ids": ids} for ids in texts[start : start + REQUESTS]]
            yield from self._llm.generate(prompts, sampling, use_tqdm=False, lora_request=self._adapter)
            if progress is not None:
                progress(start + len(prompts), len(texts))

    def _require_room(self, texts: Sequence[list[int]], new: int) -> None:
        """Before the first request, since vLLM ends with an error of its own at the first text that is too long."""
        limit = self.window
        assert limit is not None  # vLLM is always started for some length
        number, longest = max(enumerate(map(len, texts)), key=lambda pair: pair[1], default=(0, 0))
        if longest + new > limit:
            raise DataError(
                "a text is longer than vLLM was started for",
                where=f"text {number}",
                expected=f"at most {limit} tokens",
                got=f"{longest} tokens, and {new} to be written",
                do="ask with fewer shots or new tokens, or with --backend torch",
            )


def _token_scores(table: Sequence[dict[int, Any] | None], target: Sequence[int]) -> TokenScores:
    """From the log probabilities and ranks of the last positions of a prompt."""
    entries = [row[token] for row, token in zip(table[-len(target) :], target, strict=True) if row is not None]
    values = [float(entry.logprob) for entry in entries]
    if len(values) != len(target) or not all(map(math.isfinite, values)):
        raise NumericalError(
            "the model gives NaN or infinite log probabilities",
            got=values[:3],
            do="the training may have diverged: lower the learning rate",
        )
    total = math.fsum(values)
    return TokenScores(total / len(values), total, len(values), all(entry.rank == 1 for entry in entries))


def _import() -> Any:
    try:
        import vllm  # pyright: ignore[reportMissingImports]  # optional
    except ImportError as error:
        raise ConfigError(
            "the vLLM back end needs its package", got=str(error), do='pip install "farss[vllm]", or --backend torch'
        ) from error
    return vllm


def _lora_request() -> Any:
    from vllm.lora.request import LoRARequest  # pyright: ignore[reportMissingImports]  # optional

    return LoRARequest


def _served_rank(folder: Path) -> int:
    """The `max_lora_rank` that vLLM needs for an adapter.

    Raises:
        AdapterError: if the folder holds no LoRA adapter, or none that vLLM serves.
    """
    config = read_config(folder)
    if config.get("peft_type") != "LORA":
        raise AdapterError("vLLM serves plain LoRA only", where=folder, got=config.get("peft_type"), do=PORTABLE)
    odd = [name for name in ("rank_pattern", "alpha_pattern", "use_dora", "modules_to_save") if config.get(name)]
    if odd:
        raise AdapterError(
            "vLLM serves adapters of one rank and scale only", where=folder, got=", ".join(odd), do=PORTABLE
        )
    fitting = [rank for rank in LORA_RANKS if rank >= config["r"]]
    if not fitting:
        raise AdapterError(
            "the adapter's rank is above what vLLM serves",
            where=folder,
            expected=f"at most {LORA_RANKS[-1]}",
            got=config["r"],
            do="farss export --to portable --rank 64, or --to merged",
        )
    return fitting[0]
