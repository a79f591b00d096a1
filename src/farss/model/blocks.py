"""A model as a chain: something that makes the first hidden state, blocks that each turn one into the next, a head.

What a block is called with besides the hidden state (masks, position embeddings, per-layer inputs) is captured from
the model's own forward pass with the blocks replaced by stand-ins, so nothing about the architecture is guessed; and
what a chain may not do (share state between blocks, skip one, call one twice) is noticed there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from farss.errors import ModelError
from farss.model.lazy import RESIDENT
from farss.model.targets import Target, chain_prefixes

HIDDEN = "hidden_states"


class NotAChain(ModelError):
    """The model is no embedding, chain of blocks and head, so it cannot be walked block by block."""


@dataclass(frozen=True)
class Call:
    """How the model calls one block, the hidden state aside.

    Attributes:
        args: positional arguments after the hidden state.
        kwargs: keyword arguments without the hidden state.
        named: whether the hidden state is passed by name.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    named: bool

    def of(self, block: nn.Module, hidden: Tensor) -> Any:
        """The block's output for `hidden`."""
        if self.named:
            return block(*self.args, **self.kwargs, **{HIDDEN: hidden})
        return block(hidden, *self.args, **self.kwargs)


class _EndOfChain(Exception):
    """Raised by the last stand-in when nothing after the blocks is wanted."""


class BlockChain:
    """The blocks of a model in the order of their calls.

    Args:
        model: a causal language model or an encoder with a head; its blocks may be without weights.
        targets: the modules to observe; all must lie in the chain.

    Raises:
        NotAChain: if there is no single list of blocks, or a target lies outside it.
    """

    def __init__(self, model: nn.Module, targets: Sequence[Target]) -> None:
        prefixes = chain_prefixes(model)
        if len(prefixes) != 1:
            raise NotAChain("the model has no single chain of blocks", got=prefixes, do=RESIDENT)
        self.model, self.prefix = model, prefixes[0]
        self.blocks = list(model.get_submodule(self.prefix).children())
        outside = [target.name for target in targets if target.layer is None]
        if outside:
            raise NotAChain("a target lies outside the chain of blocks", where=", ".join(outside[:3]), do=RESIDENT)
        self.targets = [[t for t in targets if t.layer == i] for i in range(len(self.blocks))]
        self.originals: list[Any] = []
        self.parts: int | None = None
        """Length of the tuple that a block returns its hidden state first in, 0 for none; None until one was called."""
        self.followed = False
        """Whether the model was seen to call no block after the last."""

    def __len__(self) -> int:
        return len(self.blocks)

    def owns(self, name: str) -> int | None:
        """The index of the block that a parameter belongs to, or None."""
        if not name.startswith(f"{self.prefix}."):
            return None
        return int(name[len(self.prefix) + 1 :].split(".")[0])

    def run_block(self, index: int, call: Call, hidden: Tensor) -> Tensor:
        """The hidden state after block `index`.

        Raises:
            NotAChain: if the block returns more than a hidden state and its attention weights, which nothing after
                it reads.
        """
        output = call.of(self.blocks[index], hidden)
        self.parts = len(output) if isinstance(output, tuple) else 0
        if self.parts and any(part is not None and not _attention(part, hidden) for part in output[1:]):
            raise NotAChain("a block returns more than a hidden state", where=self._name(index), do=RESIDENT)
        found = output[0] if self.parts else output
        if not isinstance(found, Tensor) or found.shape != hidden.shape:
            raise NotAChain("a block does not return a hidden state", where=self._name(index), do=RESIDENT)
        return found

    def calls(self, run: Callable[[], Any], form: Callable[[Call, Tensor], object]) -> tuple[Tensor, list[Call]]:
        """The first hidden state, and how every block is called.

        Args:
            run: the model's forward pass, which meets stand-ins instead of blocks; the first time it goes on after the
                last block, since a model may call blocks again, later it ends there.
            form: called once with the first call and hidden state of this chain, to see what a block returns (it
                should call `run_block(0, ...)`).

        Raises:
            NotAChain: if a block gets something that an earlier block computed besides its hidden state, a container
                that blocks could write to, or is not called exactly once in order.
        """
        seen: list[Call] = []
        first: list[Tensor] = []
        last: Tensor | None = None

        def stand_in(index: int, hidden: Tensor, call: Call) -> Any:
            nonlocal last
            if index != len(seen) or (index and hidden is not last):
                raise NotAChain("the blocks are not called one after the other", where=self._name(index), do=RESIDENT)
            self._check_arguments(index, call)
            if index == 0:
                first.append(hidden.detach())
                if self.parts is None:
                    with torch.no_grad(), self._genuine(0):
                        form(call, hidden.detach())
            seen.append(call)
            if self.followed and len(seen) == len(self.blocks):
                raise _EndOfChain
            last = torch.zeros_like(hidden).requires_grad_()
            return self._formed(last)

        with self._stand_ins(stand_in), torch.enable_grad(), suppress(_EndOfChain):
            run()
        if len(seen) < len(self.blocks):
            raise NotAChain("not every block is called", expected=len(self.blocks), got=len(seen), do=RESIDENT)
        self.followed = True
        return first[0], seen

    def after(self, run: Callable[[], Tensor], hidden: Tensor) -> Tensor:
        """What `run`, the model's forward pass, returns if the last block gives `hidden`."""

        def stand_in(index: int, given: Tensor, call: Call) -> Any:
            return self._formed(hidden if index == len(self.blocks) - 1 else given)

        with self._stand_ins(stand_in):
            return run()

    def _formed(self, hidden: Tensor) -> Any:
        """A hidden state in the form that blocks return it in."""
        return (hidden, *[None] * (self.parts - 1)) if self.parts else hidden

    def _name(self, index: int) -> str:
        return f"{self.prefix}.{index}"

    def _check_arguments(self, index: int, call: Call) -> None:
        for name, value in (*enumerate(call.args), *call.kwargs.items()):
            parts = value if isinstance(value, (tuple, list)) else (value,)
            if any(isinstance(part, Tensor) and part.requires_grad for part in parts):
                raise NotAChain(
                    "a block gets something that an earlier block computed, besides its hidden state",
                    where=f"{self._name(index)}, argument {name}",
                    do=RESIDENT,
                )
            if isinstance(value, dict) or hasattr(value, "update"):
                raise NotAChain(
                    "blocks share something they can write to",
                    where=f"{self._name(index)}, argument {name}",
                    got=type(value).__name__,
                    do=RESIDENT,
                )

    @contextmanager
    def _genuine(self, index: int) -> Iterator[None]:
        """One block's own forward, among stand-ins."""
        block, original = self.blocks[index], self.originals[index]
        stand_in = vars(block).pop("forward")
        if original is not None:
            block.forward = original
        try:
            yield
        finally:
            block.forward = stand_in

    @contextmanager
    def _stand_ins(self, act: Callable[[int, Tensor, Call], Any]) -> Iterator[None]:
        self.originals = [vars(block).get("forward") for block in self.blocks]
        try:
            for index, block in enumerate(self.blocks):
                block.forward = _stand_in(index, act)  # type: ignore[method-assign] # undone below
            yield
        finally:
            for block, original in zip(self.blocks, self.originals, strict=True):
                del block.forward
                if original is not None:
                    block.forward = original


def _attention(part: object, hidden: Tensor) -> bool:
    """Whether something a block returns beside its hidden state [b, t, d] is attention weights, [b, heads, t, t]."""
    rows, length = hidden.shape[:2]
    return isinstance(part, Tensor) and part.ndim == 4 and (part.shape[0], *part.shape[2:]) == (rows, length, length)


def _stand_in(index: int, act: Callable[[int, Tensor, Call], Any]) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        if HIDDEN in kwargs:
            hidden = kwargs.pop(HIDDEN)
            return act(index, hidden, Call(args, kwargs, named=True))
        return act(index, args[0], Call(args[1:], kwargs, named=False))

    return forward
