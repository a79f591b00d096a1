"""How a model is run over batches is decided by what the batches are."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from farss.config import Fisher, LossNorm
from farss.model.calibration import Batch
from farss.model.classification import ClassificationLoss, LabelledBatch
from farss.model.loss import SupervisedLoss


def reader_for(
    queue: Sequence[Batch],
    model: nn.Module,
    loss_norm: LossNorm = "token_sum",
    fisher: Fisher = "empirical",
    seed: int = 0,
) -> SupervisedLoss:
    """Runs `model` over batches of the kind of `queue`: labelled texts, or sequences with a response.

    Args:
        queue: batches, all of one kind; empty counts as sequences.
        model: a classifier, or a causal language model.
        loss_norm: gradient of the summed loss, or of the batch's mean.
        fisher: labels of the data, or drawn from the model's own distribution.
        seed: of the draws.
    """
    kind = ClassificationLoss if queue and isinstance(queue[0], LabelledBatch) else SupervisedLoss
    return kind(model, loss_norm, fisher, seed)
