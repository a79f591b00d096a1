"""Logits at chosen positions and nowhere else: with a large vocabulary the others take most of memory and time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn

from farss.errors import ModelError


def logits_at(model: nn.Module, head: nn.Module | None, rows: Tensor, **inputs: Any) -> Tensor:
    """The model's next-token logits at chosen positions; what it does to them (scaling, soft capping) is done.

    Args:
        model: a causal language model, perhaps wrapped for several processes.
        head: its output head; None computes all logits and takes the chosen ones.
        rows: [b, t] bool, the positions to predict from, n of them.
        inputs: of the model's forward, [b, t] ids among them.

    Returns:
        [n, v] in the model's dtype, in row-major order.

    Raises:
        ModelError: if the model does not return logits per position.
    """
    with nullcontext() if head is None else head_reads(head, rows):
        logits = model(**inputs).logits
    if logits.shape[:-1] == (1, int(rows.sum())):
        return logits[0]
    if logits.shape[:-1] == rows.shape:
        return logits[rows]
    raise ModelError("the model gives no next-token logits", got=tuple(logits.shape), do="load a causal LM")


@contextmanager
def head_reads(head: nn.Module, rows: Tensor) -> Iterator[None]:
    """Inside, `head` reads the positions `rows` ([b, t] bool) of hidden states [b, t, d] as [1, n, d], no others."""

    def select(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if args[0].shape[:-1] != rows.shape:
            return None
        return (args[0][rows.to(args[0].device)][None], *args[1:])

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()
