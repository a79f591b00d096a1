"""The training loss: summed cross entropy of the supervised tokens, with logits nowhere else."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn
from torch.nn import functional

from farss.errors import ModelError
from farss.model.calibration import UNSUPERVISED
from farss.model.logits import logits_at

READ = ("input_ids", "attention_mask", "position_ids")
"""Tensors of a batch that the model is given."""


def output_head(model: nn.Module) -> nn.Module:
    """The module that turns hidden states into logits.

    Raises:
        ModelError: if `model` names none.
    """
    find = getattr(model, "get_output_embeddings", None)
    head = find() if callable(find) else None
    if not isinstance(head, nn.Module):
        raise ModelError("the model has no output head to train", got=type(model).__name__, do="load a causal LM")
    return head


def summed_loss(model: nn.Module, head: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Summed negative log-probability of the supervised tokens, float32 (float64 for a float64 model), a scalar.

    Args:
        model: a causal language model, perhaps wrapped for several processes.
        head: its output head.
        inputs: as `supervised_logits` takes them.

    Raises:
        ModelError: as `supervised_logits`.
    """
    return functional.cross_entropy(*supervised_logits(model, head, inputs), reduction="sum")


def supervised_logits(model: nn.Module, head: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The logits [n, v] that predict the n supervised tokens, float32 or better, and those tokens [n], row by row.

    Only positions whose next token is supervised reach the head (`model.logits`).

    Args:
        model: a causal language model, perhaps wrapped for several processes.
        head: its output head.
        inputs: `input_ids`, `labels` and `attention_mask` (or `position_ids`, where rows are packed), [b, t] each;
            labels are not shifted, -100 is ignored.

    Raises:
        ModelError: if the model does not return logits per position.
    """
    wanted = functional.pad(inputs["labels"][:, 1:] != UNSUPERVISED, (0, 1))
    targets = inputs["labels"][:, 1:][wanted[:, :-1]]

    read = {name: inputs[name] for name in READ if name in inputs}
    logits = logits_at(model, head, wanted, **read, return_dict=True, **_no_cache(model))
    return (logits if logits.dtype is torch.float64 else logits.float()), targets


def _no_cache(model: nn.Module) -> dict[str, bool]:
    parameters = inspect.signature(model.forward).parameters.values()
    named = any(p.name == "use_cache" or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    return {"use_cache": False} if named else {}
