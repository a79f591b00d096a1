"""Texts with one label each, as padded batches, and the loss of a classifier on them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from farss.errors import ConfigError, DataError
from farss.model.calibration import Batch, grouped
from farss.model.loss import SupervisedLoss


@dataclass(frozen=True)
class LabelledExample:
    """One text, or a pair of texts, as token ids with the tokens that open and close it.

    Attributes:
        ids: token ids.
        segments: 0 or 1 for each of them, which text it belongs to; empty where the model has no such embeddings.
        label: index of the class, or a float for a task that is a regression.
    """

    ids: tuple[int, ...]
    segments: tuple[int, ...]
    label: int | float

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self.ids)


@dataclass(frozen=True)
class LabelledBatch(Batch):
    """Padded texts with one label each.

    Attributes:
        labels: [b] int64 class indices, or [b] float32 values.
        segments: [b, t] int64 token types, or None.
    """

    segments: Tensor | None = None

    @property
    def supervised(self) -> Tensor:
        """[b, t] bool, True where the head reads the text: its first token, `[CLS]` or `<s>`.

        Statistics count *every* attended position by default (`tokens="nonpad"`), inputs and output gradients alike:
        attention carries the label's gradient to all of them in all layers but the last, and there to keys and
        values. Only what the last layer does after attention has no effect away from this position: the gradients
        there are zeros, which rescale a second moment and change no order of directions, and the inputs there are
        counted all the same. `tokens="response"` counts this position alone.
        """
        first = self.attention_mask.argmax(dim=1)
        return functional.one_hot(first, self.attention_mask.shape[1]).bool()

    def to(self, device: torch.device | str) -> LabelledBatch:
        """The same batch on `device`."""
        segments = None if self.segments is None else self.segments.to(device)
        ids, mask, labels = (part.to(device) for part in (self.input_ids, self.attention_mask, self.labels))
        return LabelledBatch(ids, mask, labels, segments)

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What a classifier's forward is called with."""
        found = {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        return found if self.segments is None else {**found, "token_type_ids": self.segments}


def encode_texts(
    texts: Sequence[tuple[str, ...]], labels: Sequence[int | float], tokenizer: Any, max_length: int
) -> list[LabelledExample]:
    """Texts, or pairs of texts, as token ids, at most `max_length` tokens each; the longer of a pair is cut first.

    Args:
        texts: all single, or all pairs.
        labels: as many.
        tokenizer: of an encoder; it joins a pair and opens and closes it its own way.
        max_length: most tokens of an example.

    Raises:
        DataError: if there are no texts.
        ConfigError: if the model has fewer positions than `max_length`.
    """
    if not texts:
        raise DataError("there are no texts to encode", expected="at least one row")
    if max_length > tokenizer.model_max_length:
        most = tokenizer.model_max_length
        raise ConfigError("max_length is more than the model reads", expected=f"at most {most}", got=max_length)
    columns = [list(column) for column in zip(*texts, strict=True)]
    encoded = tokenizer(*columns, truncation=True, max_length=max_length)
    segments = encoded.get("token_type_ids") or [()] * len(texts)
    rows = zip(encoded["input_ids"], segments, labels, strict=True)
    return [LabelledExample(tuple(ids), tuple(types), label) for ids, types, label in rows]


def labelled_batches(
    examples: Sequence[LabelledExample],
    *,
    batch_tokens: int,
    pad_id: int,
    pad_to: int | None = None,
    sort: bool = True,
) -> list[LabelledBatch]:
    """The examples as batches of at most `batch_tokens` tokens, padded at the right.

    Args:
        examples: of `encode_texts`.
        batch_tokens: most padded tokens of a batch; a longer single example has a batch of its own.
        pad_id: the tokenizer's own padding token: RoBERTa counts positions by it.
        pad_to: widths are rounded up to a multiple of this.
        sort: longest first; False keeps the given order.

    Raises:
        DataError: if there are no examples.
    """
    groups = grouped(examples, batch_tokens=batch_tokens, pad_to=pad_to, sort=sort)
    return [_padded(group, width, pad_id) for group, width in groups]


def _padded(group: list[LabelledExample], width: int, pad_id: int) -> LabelledBatch:
    input_ids = torch.full((len(group), width), pad_id, dtype=torch.int64)
    mask, segments = torch.zeros_like(input_ids), torch.zeros_like(input_ids)
    for row, example in enumerate(group):
        input_ids[row, : len(example)] = torch.tensor(example.ids)
        mask[row, : len(example)] = 1
        if example.segments:
            segments[row, : len(example)] = torch.tensor(example.segments)
    labels = torch.tensor([example.label for example in group])
    return LabelledBatch(input_ids, mask, labels, segments if group[0].segments else None)


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The summed loss of a batch, a scalar in float32 (float64 for float64 logits).

    Args:
        logits: [b, c], or [b, 1] for a regression.
        labels: [b], integers: cross entropy; floats: squared error, twice the negative log-likelihood of a Gaussian of
            variance one, up to a constant.
    """
    logits = logits if logits.dtype is torch.float64 else logits.float()
    if labels.is_floating_point():
        return (logits[:, 0] - labels.to(logits.dtype)).square().sum()
    return functional.cross_entropy(logits, labels, reduction="sum")


class ClassificationLoss(SupervisedLoss):
    """Forward passes of a sequence classifier that end in the loss of the labels, one per text."""

    def loss(self, batch: Batch) -> Tensor:
        """Summed (or mean) loss of the labels, a scalar."""
        logits = self.model(**self.arguments(batch), return_dict=True).logits
        labels = batch.labels
        if self.fisher == "sampled":
            labels = self._drawn_values(logits) if labels.is_floating_point() else self._drawn(logits.float())
        summed = label_loss(logits, labels)
        return summed / len(labels) if self.loss_norm == "batch_mean" else summed

    def read(self, batch: Batch) -> None:
        """Run the model over the batch without gradients."""
        with torch.no_grad():
            self.model(**self.arguments(batch), return_dict=True)

    def arguments(self, batch: Batch) -> dict[str, Any]:
        """What the classifier's forward is called with for `batch`."""
        assert isinstance(batch, LabelledBatch)
        return batch.inputs

    def _drawn_values(self, logits: Tensor) -> Tensor:
        """Values of which the squared error is the negative log-likelihood: a variance of one half."""
        if self.generator is None:
            self.generator = torch.Generator(logits.device).manual_seed(self.seed)
        noise = torch.empty_like(logits[:, 0]).normal_(generator=self.generator)
        return logits[:, 0].detach() + noise * 0.5**0.5


def labels_fingerprint(examples: Sequence[LabelledExample], seed: int) -> dict[str, Any]:
    """What a plan records of its data: rows, tokens, seed, and a SHA-256 of all ids and labels in order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(f"{list(example.ids)}{list(example.segments)}{example.label}".encode())
    return {
        "rows": len(examples),
        "tokens": sum(len(example) for example in examples),
        "supervised_tokens": len(examples),
        "seed": seed,
        "sha256": digest.hexdigest(),
    }
