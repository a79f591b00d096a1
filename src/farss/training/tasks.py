"""What a training learns: its rows, how they are put in batches, and the loss of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from farss.errors import ConfigError, DataError
from farss.model.calibration import Example, data_fingerprint
from farss.model.classification import LabelledExample, label_loss, labelled_batches, labels_fingerprint
from farss.training.batching import WIDTH_MULTIPLE, PaddedBatch
from farss.training.loss import output_head, summed_loss
from farss.training.packing import PackedBatch

Collator = Callable[[Sequence[Any]], dict[str, Tensor]]
Loss = Callable[[nn.Module, dict[str, Tensor]], Tensor]
APART = "texts that are classified cannot be packed: each is a row of its own"


class TrainingTask(Protocol):
    """One way of learning from rows; the trainer does the rest alike for all of them."""

    def check(self, examples: Sequence[Any]) -> None:
        """Make sure that every row has something to learn.

        Raises:
            DataError: if one has not, or there are none.
        """
        ...

    def fingerprint(self, examples: Sequence[Any], seed: int) -> dict[str, Any]:
        """What tells these rows from others, JSON-ready."""
        ...

    def collator(self, pad_id: int, *, packing: bool = False) -> Collator:
        """Makes the tensors of one forward pass of some rows; "labels" has -100, or no entry, where nothing counts.

        Raises:
            ConfigError: if `packing` asks for one sequence of all rows, and the task has none.
        """
        ...

    def loss_of(self, model: nn.Module) -> Loss:
        """The loss of a batch, summed over its labels; called with `model`, perhaps wrapped for several processes.

        Raises:
            ModelError: if the model cannot learn this.
        """
        ...


class LanguageModelling:
    """Responses to prompts, token by token; rows of `calibration.Example`."""

    def check(self, examples: Sequence[Example]) -> None:
        """Make sure that every row has a response.

        Raises:
            DataError: if one has not, or there are none.
        """
        _require_rows(examples)
        silent = [i for i, example in enumerate(examples) if not example.response_ids or len(example) < 2]
        if silent:
            raise DataError(
                "rows have no response token to learn",
                got=f"{len(silent)} of {len(examples)} rows, the first of them row {silent[0]}",
                do="leave them out, or raise max_length",
            )

    def fingerprint(self, examples: Sequence[Example], seed: int) -> dict[str, Any]:
        """`calibration.data_fingerprint`."""
        return data_fingerprint(examples, seed)

    def collator(self, pad_id: int, *, packing: bool = False) -> Collator:
        """Padded ids, mask and labels, [b, t] each; or ids, positions and labels of one sequence, [1, t]."""
        return PackedBatch() if packing else PaddedBatch(pad_id)

    def loss_of(self, model: nn.Module) -> Loss:
        """Summed negative log-probability of the supervised tokens.

        Raises:
            ModelError: if the model names no output head.
        """
        head = output_head(model)
        return lambda wrapped, inputs: summed_loss(wrapped, head, inputs)


class Classification:
    """One label per text; rows of `classification.LabelledExample`, for a classifier with its head."""

    def check(self, examples: Sequence[LabelledExample]) -> None:
        """Make sure that there are rows.

        Raises:
            DataError: if there are none.
        """
        _require_rows(examples)

    def fingerprint(self, examples: Sequence[LabelledExample], seed: int) -> dict[str, Any]:
        """`classification.labels_fingerprint`."""
        return labels_fingerprint(examples, seed)

    def collator(self, pad_id: int, *, packing: bool = False) -> Collator:
        """Padded ids, mask and token types, [b, t] each, and labels, [b].

        Raises:
            ConfigError: if `packing` is asked for.
        """
        if packing:
            raise ConfigError(APART, where="train.packing", do="leave it out")

        def collate(rows: Sequence[LabelledExample]) -> dict[str, Tensor]:
            width = -(-max(len(row) for row in rows) // WIDTH_MULTIPLE) * WIDTH_MULTIPLE
            (batch,) = labelled_batches(rows, batch_tokens=width * len(rows), pad_id=pad_id, pad_to=width, sort=False)
            return {**batch.inputs, "labels": batch.labels}

        return collate

    def loss_of(self, model: nn.Module) -> Loss:
        """Summed cross entropy, or squared error where labels are numbers."""

        def loss(wrapped: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
            read = {name: value for name, value in inputs.items() if name != "labels"}
            return label_loss(wrapped(**read, return_dict=True).logits, inputs["labels"])

        return loss


def _require_rows(examples: Sequence[Any]) -> None:
    if not examples:
        raise DataError("there are no examples to train on", expected="at least one row")
