"""The loss of the supervised tokens, and nothing else: logits exist only where a label does."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from farss.config import Fisher, LossNorm
from farss.errors import ModelError
from farss.model.calibration import UNSUPERVISED, Batch
from farss.model.logits import head_reads, logits_at


class SupervisedLoss:
    """Forward passes of a causal language model that end in the loss of the supervised tokens only."""

    def __init__(self, model: nn.Module, loss_norm: LossNorm, fisher: Fisher, seed: int) -> None:
        self.model, self.loss_norm, self.fisher = model, loss_norm, fisher
        self.generator: torch.Generator | None = None
        self.seed = seed
        self.embedded: Tensor | None = None
        self.accepted = inspect.signature(model.forward).parameters

    @contextmanager
    def reading(self) -> Iterator[SupervisedLoss]:
        """A hook on the embeddings, where the backward ends."""
        embeddings = self.model.get_input_embeddings()  # type: ignore[operator] # transformers' PreTrainedModel
        handle = embeddings.register_forward_hook(self._start_gradient)
        try:
            yield self
        finally:
            handle.remove()

    def _start_gradient(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        self.embedded = output.requires_grad_()
        return self.embedded

    @property
    def _head(self) -> nn.Module | None:
        return self.model.get_output_embeddings()  # type: ignore[operator] # transformers' PreTrainedModel

    def without_logits(self, batch: Batch) -> AbstractContextManager[None]:
        """The output head gets no row to compute: for runs that look at what comes before it."""
        head = self._head
        return nullcontext() if head is None else head_reads(head, torch.zeros_like(batch.supervised))

    def loss(self, batch: Batch) -> Tensor:
        """Summed (or mean) negative log-probability of the supervised tokens, a scalar.

        Raises:
            ModelError: if the model does not return next-token logits.
        """
        inputs = {**self.arguments(batch), "return_dict": True}
        logits = logits_at(self.model, self._head, batch.supervised, **inputs)
        labels = batch.labels[:, 1:][batch.labels[:, 1:] != UNSUPERVISED]
        logits = logits if logits.dtype is torch.float64 else logits.float()
        labels = self._drawn(logits) if self.fisher == "sampled" else labels
        return functional.cross_entropy(logits, labels, reduction="mean" if self.loss_norm == "batch_mean" else "sum")

    def read(self, batch: Batch) -> None:
        """Run the model over the batch without gradients and without a single row of logits."""
        with torch.no_grad(), self.without_logits(batch):
            self.model(**self.arguments(batch), return_dict=True)

    def arguments(self, batch: Batch) -> dict[str, Any]:
        """What the model's forward is called with for `batch`.

        Raises:
            ModelError: if the batch is padded at the left and the model takes no positions.
        """
        arguments: dict[str, Any] = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        if "use_cache" in self.accepted:
            arguments["use_cache"] = False
        if not bool(batch.attention_mask[:, 0].all()):
            if "position_ids" not in self.accepted:
                raise ModelError("the model takes no position_ids", where="left padding", do='batch with side="right"')
            arguments["position_ids"] = (batch.attention_mask.cumsum(-1) - 1).clamp_(min=0)
        return arguments

    def random_state(self) -> bytes:
        """The state of the draws of `fisher="sampled"`; empty before the first."""
        return b"" if self.generator is None else bytes(self.generator.get_state().tolist())

    def set_random_state(self, state: bytes) -> None:
        """Draw on from a state given by `random_state`."""
        if state:
            embeddings = self.model.get_input_embeddings()  # type: ignore[operator] # transformers' PreTrainedModel
            generator = torch.Generator(embeddings.weight.device)
            generator.set_state(torch.tensor(list(state), dtype=torch.uint8))
            self.generator = generator

    def _drawn(self, logits: Tensor) -> Tensor:
        if self.generator is None:
            self.generator = torch.Generator(logits.device).manual_seed(self.seed)
        return torch.multinomial(logits.detach().softmax(-1), 1, generator=self.generator).squeeze(1)

    def gradient_is_finite(self) -> bool:
        """Whether the gradient that reached the embeddings is finite (NaN and Inf travel there from any layer)."""
        assert self.embedded is not None
        gradient, self.embedded = self.embedded.grad, None
        if gradient is None:
            return True
        wide = torch.promote_types(gradient.dtype, torch.float32)  # a sum may leave float16's range, its terms not
        return bool(torch.isfinite(gradient.sum(dtype=wide)))
