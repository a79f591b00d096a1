"""What reads and writes text as one model: PyTorch in this process, or an inference engine.

Measurements ask a back end for likelihoods and words and know nothing of how it gets them, so that the same questions
and tokens are scored in the same way by any of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import nn

from farss.evaluation.generation import generate, generate_after
from farss.evaluation.likelihood import (
    Continuation,
    TokenScores,
    answer_log_probs,
    continuation_scores,
    response_losses,
)
from farss.evaluation.prefix import inner_model
from farss.evaluation.records import Progress
from farss.model.calibration import Example, pad_token
from farss.model.tables import window_of


class Backend(Protocol):
    """One model, ready to be measured.

    Attributes:
        tokenizer: of the model.
        window: the most tokens of a text and what is written after it; None where nothing bounds them.
    """

    tokenizer: Any
    window: int | None

    def answer_log_probs(
        self,
        prefix: str,
        prompts: Sequence[str],
        answers: Sequence[str],
        *,
        batch_tokens: int,
        progress: Progress | None = None,
    ) -> list[TokenScores]:
        """How probable each answer is after `prefix + prompt`, see `likelihood.answer_log_probs`."""
        ...

    def response_losses(
        self, examples: Sequence[Example], *, batch_tokens: int, progress: Progress | None = None
    ) -> list[tuple[float, int]]:
        """Nats and tokens of each response given its prompt, see `likelihood.response_losses`."""
        ...

    def continuation_scores(
        self, pairs: Sequence[Continuation], *, batch_tokens: int, progress: Progress | None = None
    ) -> list[TokenScores]:
        """How probable each target is after its context, see `likelihood.continuation_scores`."""
        ...

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
        """The greedy continuation of each `prefix + prompt`, see `generation.generate`."""
        ...

    def generate_after(
        self,
        contexts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        stop: tuple[str, ...],
        batch_size: int,
        progress: Progress | None = None,
    ) -> list[str]:
        """The greedy continuation of each context of token ids, see `generation.generate_after`."""
        ...


class TorchBackend:
    """A model in this process.

    Args:
        model: a causal language model, with or without a PEFT adapter; only read.
        tokenizer: its tokenizer.
    """

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.window = window_of(inner_model(model).config)

    def answer_log_probs(
        self,
        prefix: str,
        prompts: Sequence[str],
        answers: Sequence[str],
        *,
        batch_tokens: int,
        progress: Progress | None = None,
    ) -> list[TokenScores]:
        """See `Backend`."""
        return answer_log_probs(
            self.model, self.tokenizer, prefix, prompts, answers, batch_tokens=batch_tokens, progress=progress
        )

    def response_losses(
        self, examples: Sequence[Example], *, batch_tokens: int, progress: Progress | None = None
    ) -> list[tuple[float, int]]:
        """See `Backend`."""
        pad_id = pad_token(self.tokenizer)
        return response_losses(self.model, examples, pad_id=pad_id, batch_tokens=batch_tokens, progress=progress)

    def continuation_scores(
        self, pairs: Sequence[Continuation], *, batch_tokens: int, progress: Progress | None = None
    ) -> list[TokenScores]:
        """See `Backend`."""
        pad_id = pad_token(self.tokenizer)
        return continuation_scores(self.model, pairs, pad_id=pad_id, batch_tokens=batch_tokens, progress=progress)

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
        """See `Backend`."""
        return generate(
            self.model,
            self.tokenizer,
            prompts,
            prefix=prefix,
            max_new_tokens=max_new_tokens,
            stop=stop,
            batch_size=batch_size,
            progress=progress,
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
        """See `Backend`."""
        return generate_after(
            self.model,
            self.tokenizer,
            contexts,
            max_new_tokens=max_new_tokens,
            stop=stop,
            batch_size=batch_size,
            progress=progress,
        )
