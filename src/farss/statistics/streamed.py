"""The data pass over a model that need not fit in memory: one block's weights at a time, exact second moments.

Forward once through the blocks, every batch through one block before the next is loaded, keeping the hidden states
between blocks; then the head, whose loss gives the first gradient; then from the last block to the first: load its
weights, run it again with gradient, hand the gradient at its input on to the block before. The result is that of
`farss.statistics.curvature.collect` up to the order of floating-point sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from farss.config import Fisher, LossNorm, Tokens
from farss.errors import NumericalError
from farss.model.blocks import BlockChain, Call
from farss.model.calibration import Batch
from farss.model.lazy import LazyWeights
from farss.model.loss import SupervisedLoss
from farss.model.modes import full_precision_products, reading_only
from farss.model.tables import check_batches
from farss.model.targets import Target, weight_matrix
from farss.statistics.curvature import CurvaturePass
from farss.statistics.moments import Curvature
from farss.statistics.observing import (
    Progress,
    check_supervision,
    leaders,
    loss_scale,
)
from farss.statistics.readers import reader_for
from farss.statistics.states import MemoryStates, States

HIDDEN, GRADIENT = "hidden", "gradient"
FORWARD_COST, BACKWARD_COST = 1, 3
"""Progress counts a block's forward pass once; its way back runs it again and costs about two more."""


class Blocks(Protocol):
    """Something that receives a block's moments while its weights are in memory, from the last block to the first."""

    def has(self, index: int) -> bool:
        """Whether an earlier walk delivered this block already."""
        ...

    def receive(self, index: int, parts: Sequence[Curvature]) -> None:
        """Take the sums of block `index`, of each part of the data; they are forgotten afterwards.

        There are none if the block has no targets.
        """
        ...


class Walk:
    """One walk over a chain of blocks.

    Args:
        model: a causal language model, or an encoder with a classification head; its block weights may be elsewhere.
        weights: brings them; None for a model in memory.
        targets: modules of the blocks.
        batches: padded batches, of labelled texts for a classifier; at most `max_batches` of them are used.
        others: further parts of the data, each with moments of its own as if it were walked alone; weights are read
            and blocks are delivered once for all parts.
        tokens, loss_norm, fisher, max_batches, seed: as for `curvature.collect`.
        states: keeps hidden states and gradients; in memory by default. With `DiskStates` of an interrupted walk over
            the same model, batches and settings, this one goes on from there, to the same bits.
        progress: called with (work done, work in total).

    Raises:
        NotAChain: if the model cannot be walked.
        DataError: if there is no batch, or one supervises nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        weights: LazyWeights | None,
        targets: Sequence[Target],
        batches: Sequence[Batch],
        *,
        others: Sequence[Sequence[Batch]] = (),
        tokens: Tokens = "nonpad",
        loss_norm: LossNorm = "token_sum",
        fisher: Fisher = "empirical",
        max_batches: int | None = None,
        seed: int = 0,
        states: States | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.model, self.weights, self.chain = model, weights, BlockChain(model, targets)
        self.parts = [list(part)[:max_batches] for part in (batches, *others)]
        for part in self.parts:
            check_supervision(part)
            check_batches(model, part)
        self.batches = [batch for part in self.parts for batch in part]
        self.settings = {"tokens": tokens, "loss_norm": loss_norm, "fisher": fisher}
        self.loss_norm: LossNorm = loss_norm
        self.fisher: Fisher = fisher
        self.seed = seed
        self.dtype = weights.dtype if weights else weight_matrix(targets[0]).dtype
        self.states = MemoryStates() if states is None else states
        self.progress = progress
        self.calls: list[list[Call]] = []
        self.done = 0

    def run(self, blocks: Blocks) -> None:
        """Walk forward and back; `blocks` receives the moments of every block it does not have.

        Raises:
            NotAChain: if the model turns out to be no chain.
            ModelError: if a weight is missing or damaged, or a target is not used.
            NumericalError: if the loss or a gradient is not finite.
            StorageError: if a state cannot be kept.
        """
        left = sum(not blocks.has(index) for index in range(len(self.chain)))  # blocks are received from the last on
        with ExitStack() as stack:
            stack.enter_context(reading_only(self.model))
            stack.enter_context(full_precision_products())
            stack.enter_context(self._loaded(None))
            embeddings = self.model.get_input_embeddings()  # type: ignore[operator] # transformers' PreTrainedModel
            self.device = embeddings.weight.device
            self._capture(self._reader(self.batches))
            if not self._kept(GRADIENT, left):
                for index in range(len(self.chain)):
                    self._forward(index)
                self._head()
            else:
                self._tick(len(self.chain) * FORWARD_COST)
            self._tick((len(self.chain) - left) * BACKWARD_COST)
            for index in reversed(range(left)):
                self._backward(index, blocks)

    def _reader(self, part: Sequence[Batch]) -> SupervisedLoss:
        return reader_for(part, self.model, self.loss_norm, self.fisher, self.seed)

    def _numbered(self) -> list[list[tuple[int, Batch]]]:
        """The batches of each part, with their numbers among all."""
        numbers = iter(range(len(self.batches)))
        return [[(next(numbers), batch) for batch in part] for part in self.parts]

    @contextmanager
    def _loaded(self, index: int | None) -> Iterator[None]:
        """The weights of block `index`, or of everything outside the blocks for None."""
        if self.weights is None:
            yield
            return
        names = self._names(index)
        tie = self.model.tie_weights if index is None else lambda: None
        try:
            with self.weights.loaded(self.model, names):
                tie()  # type: ignore[operator] # transformers' PreTrainedModel
                yield
        finally:
            tie()  # type: ignore[operator] # a tied head would keep the embeddings in memory

    def _names(self, index: int | None) -> list[str]:
        assert self.weights is not None
        return [name for name in self.weights.parameters if self.chain.owns(name) == index]

    def _announce(self, index: int) -> None:
        """Block `index` is needed next: its weights come from the disk while the present block computes."""
        if self.weights is not None and 0 <= index < len(self.chain):
            self.weights.announce(self._names(index))

    def _kept(self, kind: str, boundary: int) -> bool:
        return all(self.states.has(kind, boundary, number) for number in range(len(self.batches)))

    def _tick(self, passes: int) -> None:
        self.done += passes
        if self.progress is not None:
            self.progress(self.done, len(self.chain) * (FORWARD_COST + BACKWARD_COST))

    def _capture(self, reader: SupervisedLoss) -> None:
        """Boundary 0 of every batch, and how the model calls its blocks for it."""

        def see_form(call: Call, hidden: Tensor) -> object:
            with self._loaded(0):
                return self.chain.run_block(0, call, hidden)

        for number, batch in enumerate(self.batches):
            here = batch.to(self.device)
            arguments = reader.arguments(here)
            with reader.without_logits(here):
                first, calls = self.chain.calls(lambda arguments=arguments: self.model(**arguments), see_form)
            self.calls.append(calls)
            if not self.states.has(HIDDEN, 0, number):
                self.states.write(HIDDEN, 0, number, first)

    def _forward(self, index: int) -> None:
        """Boundary `index + 1` of every batch that has none yet."""
        missing = [n for n in range(len(self.batches)) if not self.states.has(HIDDEN, index + 1, n)]
        if missing:
            with self._loaded(index), torch.no_grad():
                self._announce(index + 1)
                for number in missing:
                    hidden = self.states.read(HIDDEN, index, number).to(self.device)
                    output = self.chain.run_block(index, self.calls[number][index], hidden)
                    self.states.write(HIDDEN, index + 1, number, output)
        self._tick(FORWARD_COST)

    def _head(self) -> None:
        """The gradient of the loss at the last boundary, of every batch of a part in order (labels may be drawn)."""
        for part in self._numbered():
            reader = self._reader([batch for _, batch in part])
            with reader.reading():
                for number, batch in part:
                    self._last_gradient(reader, number, batch)
        self.states.drop(HIDDEN, len(self.chain))

    def _last_gradient(self, reader: SupervisedLoss, number: int, batch: Batch) -> None:
        here, last = batch.to(self.device), len(self.chain)
        hidden = self.states.read(HIDDEN, last, number).to(self.device).requires_grad_()
        loss = self.chain.after(lambda: reader.loss(here), hidden)
        if not bool(torch.isfinite(loss)):
            raise NumericalError(
                "the loss is not finite", where=f"batch {number}", got=loss.item(), do="check model and data"
            )
        (loss * loss_scale(self.dtype)).backward()
        self._keep_gradient(last, number, hidden)

    def _backward(self, index: int, blocks: Blocks) -> None:
        """The moments of block `index`, and the gradient at its input."""
        targets = self.chain.targets[index]
        with self._loaded(index):
            self._announce(index - 1)
            inputs = self._shared_inputs(index) if targets else {}
            found: list[Curvature] = []
            for part in self._numbered():
                watch = CurvaturePass(targets, inputs, self.settings) if targets else None
                for number, batch in part:
                    self._back_through(index, number, batch, watch)
                if watch is not None:
                    found.append(watch.finished())
            blocks.receive(index, found)
        self.states.drop(HIDDEN, index)
        self.states.drop(GRADIENT, index + 1)
        self._tick(BACKWARD_COST)

    def _back_through(self, index: int, number: int, batch: Batch, watch: CurvaturePass | None) -> None:
        hidden = self.states.read(HIDDEN, index, number).to(self.device).requires_grad_()
        gradient = self.states.read(GRADIENT, index + 1, number).to(self.device)

        def forward() -> Tensor:
            return self.chain.run_block(index, self.calls[number][index], hidden)

        if watch is None:
            forward().backward(gradient)
        else:
            with watch.observing():
                watch.observe(batch, forward, gradient)
        self._keep_gradient(index, number, hidden)

    def _keep_gradient(self, boundary: int, number: int, hidden: Tensor) -> None:
        assert hidden.grad is not None, "the graph was just walked back to here"
        wide = torch.promote_types(hidden.dtype, torch.float32)
        if not bool(torch.isfinite(hidden.grad.sum(dtype=wide))):
            raise NumericalError(
                "a gradient is not finite",
                where=f"batch {number}, before block {boundary}",
                do="run the model in float32 or bfloat16",
            )
        self.states.write(GRADIENT, boundary, number, hidden.grad)

    def _shared_inputs(self, index: int) -> dict[str, str]:
        """Module name -> first module of the block that reads the very same tensor, seen on the smallest batch."""
        number = min(range(len(self.batches)), key=lambda n: self.batches[n].input_ids.numel())
        hidden = self.states.read(HIDDEN, index, number).to(self.device)
        with torch.no_grad():
            return leaders(
                self.chain.targets[index], lambda: self.chain.run_block(index, self.calls[number][index], hidden)
            )
