"""Watching linear modules while a model runs: their inputs, their output gradients, or both together.

Each target's forward is replaced, for the duration of the pass, by a linear function without weight gradient that shows
its input while the model runs forward and its output gradient while it runs backward. Inputs are only counted in the
forward phase, so gradient checkpointing, which runs a block's forward a second time during the backward phase, changes
nothing.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from farss.config import Tokens
from farss.errors import DataError, ModelError, NumericalError
from farss.model.calibration import Batch
from farss.model.loss import SupervisedLoss
from farss.model.modes import full_precision_products, keep_checkpointing, reading_only
from farss.model.tables import check_batches
from farss.model.targets import Target, weight_matrix
from farss.statistics.summed import Summed

FLOAT16_LOSS_SCALE = 2.0**10
"""float16 gradients below 6e-8 vanish; the loss is multiplied by this power of two and the moments divided by it."""

PROBE_TOKENS = 8

Progress = Callable[[int, int], None]


Kind = TypeVar("Kind", bound="DataPass")
Kept = TypeVar("Kept", bound="DataPass", contravariant=True)


class Keeper(Protocol[Kept]):
    """Keeps the sums of a pass under way, so that an interrupted one goes on from them."""

    def restore(self, run: Kept, reader: SupervisedLoss) -> int:
        """Put the kept sums, if there are any, into a pass about to begin; the number of batches they hold."""
        ...

    def offer(self, run: Kept, reader: SupervisedLoss, batches: int) -> None:
        """Keep the sums after so many batches, if it is time."""
        ...

    def end(self, run: Kept, reader: SupervisedLoss, batches: int) -> None:
        """Called when a pass has read all its batches, and before gradients are freed of the loss scale."""
        ...


def loss_scale(dtype: torch.dtype) -> float:
    """The factor that keeps the gradients of a model of this dtype within its range."""
    return FLOAT16_LOSS_SCALE if dtype is torch.float16 else 1.0


def observe(
    model: nn.Module,
    queue: list[Batch],
    targets: Sequence[Target],
    begin: Callable[[dict[str, str]], Kind],
    reader: SupervisedLoss,
    progress: Progress | None = None,
    keep: Keeper[Kind] | None = None,
) -> Kind:
    """One run of `model`, which is only read, over `queue`, watched by a pass.

    Args:
        model: a causal language model in memory.
        queue: the batches, all of them.
        targets: of `find_targets` on the same model.
        begin: makes the pass from the map module name -> first module that reads the same input.
        reader: how the model is run.
        progress: called with (real tokens done, real tokens in total) after every batch.
        keep: where the sums so far are kept now and then, and found again; None keeps nothing.

    Raises:
        DataError: if there is no batch, or one lacks what the pass needs.
        ModelError: if a target is not used, or does not see one row per token.
        NumericalError: if something observed is not finite; the batch is named.
    """
    if not queue:
        raise DataError("there is no calibration batch", expected="at least one batch")
    check_batches(model, queue)
    with ExitStack() as stack:
        stack.enter_context(reading_only(model))
        stack.enter_context(full_precision_products())
        run = begin(_shared_inputs(model, targets, queue[0]))
        run.check(queue)
        keep_checkpointing(model)
        stack.enter_context(run.observing())
        stack.enter_context(reader.reading())
        first = keep.restore(run, reader) if keep is not None else 0
        total, done = sum(batch.tokens for batch in queue), sum(batch.tokens for batch in queue[:first])
        for number, batch in enumerate(queue[first:], start=first):
            run.batch(reader, batch, f"batch {number}")
            done += batch.tokens
            if keep is not None and number + 1 < len(queue):
                keep.offer(run, reader, number + 1)
            if progress is not None:
                progress(done, total)
    if keep is not None:
        keep.end(run, reader, len(queue))
    return run


def check_supervision(queue: Sequence[Batch]) -> None:
    """Check that there are batches and that each has a loss.

    Raises:
        DataError: naming the batch.
    """
    if not queue:
        raise DataError("there is no calibration batch", expected="at least one batch")
    for number, batch in enumerate(queue):
        if not bool(batch.supervised.any()):
            raise DataError(
                "a calibration batch supervises no token",
                where=f"batch {number}",
                got="every label is -100",
                do="leave out rows without a response",
            )


class ObservedLinear(torch.autograd.Function):
    """`y = W h + b` that shows h and the gradient of y to an observer and computes no weight gradient.

    Only an observer that `keeps_input` sees h and the gradient together; for others no activation is kept.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, bias: Tensor | None, observer: Observer) -> Tensor:
        """`y` [..., m] of h [..., n], weight [m, n] and bias [m]."""
        ctx.observer = observer
        ctx.save_for_backward(weight, h if observer.keeps_input else None)
        if bias is None or not observer.wants_product:
            y = functional.linear(h, weight, bias)
            observer.see_input(h, weight, y)
            return y
        product = functional.linear(h, weight)  # the moments want Wh without the bias
        observer.see_input(h, weight, product)
        return product + bias

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override] # fixed arity
        """The gradient of h; delta [..., m]."""
        weight, h = ctx.saved_tensors
        g = delta @ weight
        ctx.observer.see_gradient(delta, weight, g, h)
        return g, None, None, None


class DataPass(ABC):
    """State of one data pass: the phase, the rows of the current batch that count, and the observers.

    Args:
        targets: the modules that are watched.
        inputs: module name -> first module that reads the same input.
        tokens: positions that count.

    Attributes:
        observers: what watches each target.
        summed: what they add to.
    """

    observers: Sequence[Observer]
    summed: Summed

    def __init__(self, targets: Sequence[Target], inputs: dict[str, str], tokens: Tokens) -> None:
        self.targets, self.inputs, self.tokens = targets, inputs, tokens
        self.phase = "idle"
        self.rows: Tensor | None = None
        self.positions = self.row_count = 0
        self.read: dict[str, weakref.ref[Tensor]] = {}
        self.loss_scale = loss_scale(weight_matrix(targets[0]).dtype)

    @abstractmethod
    def count(self, batch: Batch) -> None:
        """Add the batch that has just run to the counts that belong to the sums."""

    def adopt(self, summed: Summed) -> None:
        """Go on from these sums, which an earlier pass of the same settings has finished.

        Raises:
            DataError: if they are of other modules or settings.
        """
        self.summed.take(summed)

    def check(self, queue: list[Batch]) -> None:
        """Make sure, before anything runs, that the batches have what the pass needs.

        Raises:
            DataError: if a batch supervises nothing.
        """
        check_supervision(queue)

    @contextmanager
    def observing(self) -> Iterator[None]:
        """Replace the targets' forward functions, and put them back."""
        with replaced_forwards({o.target: o.forward for o in self.observers}):
            yield

    def batch(self, reader: SupervisedLoss, batch: Batch, where: str) -> None:
        """Run one batch forward and backward, adding to the sums."""
        here = batch.to(weight_matrix(self.targets[0]).device)

        def forward() -> Tensor:
            loss = reader.loss(here)
            if not bool(torch.isfinite(loss)):
                raise NumericalError("the loss is not finite", where=where, got=loss.item(), do="check model and data")
            return loss * self.loss_scale

        self.observe(batch, forward)
        if not reader.gradient_is_finite():
            raise NumericalError("a gradient is not finite", where=where, do="run the model in float32 or bfloat16")

    def observe(self, batch: Batch, forward: Callable[[], Tensor], gradient: Tensor | None = None) -> Tensor:
        """Run `forward` and then backward from what it returns, adding to the sums and the counts.

        Args:
            batch: whose rows `forward` reads.
            forward: gives the loss (times `loss_scale`), or the outputs of a part of the model.
            gradient: of the loss (times `loss_scale`) with respect to those outputs; None for the loss itself.

        Returns:
            What `forward` returned, detached.
        """
        self.choose_rows(batch, weight_matrix(self.targets[0]).device)
        self.phase = "forward"
        try:
            output = forward()
            self.phase = "backward"
            output.backward(gradient)
        finally:
            self.phase = "idle"
        self.count(batch)
        return output.detach()

    def counted(self, batch: Batch) -> Tensor:
        """[b, t] bool, True at positions that count."""
        return {
            "nonpad": batch.attention_mask.bool(),
            "response": batch.supervised,
            "all": torch.ones_like(batch.attention_mask, dtype=torch.bool),
        }[self.tokens]

    def choose_rows(self, batch: Batch, device: torch.device) -> None:
        """Remember which positions of the batch count."""
        chosen = self.counted(batch)
        self.positions, self.row_count = chosen.numel(), int(chosen.sum())
        everything = self.row_count == self.positions
        self.rows = None if everything else chosen.flatten().nonzero().squeeze(1).to(device)

    def select(self, x: Tensor, target: Target) -> Tensor:
        """The rows of x that count, [rows, width].

        Raises:
            ModelError: if x does not hold one row per token position of the batch.
        """
        flat = x.reshape(-1, x.shape[-1])
        if flat.shape[0] != self.positions:
            raise ModelError(
                "the module does not see one row per token",
                where=target.name,
                expected=f"{self.positions} rows",
                got=f"{flat.shape[0]} rows",
                do="exclude the module",
            )
        return flat if self.rows is None else flat.index_select(0, self.rows)

    def check_shared(self, observer: Observer, h: Tensor) -> None:
        """Make sure that modules found to share their input still do.

        Raises:
            ModelError: if this batch took another path through the model than the first one.
        """
        if observer.leader == observer.target.name:
            self.read[observer.leader] = weakref.ref(h)
        elif observer.leader not in self.read or self.read[observer.leader]() is not h:
            raise ModelError(
                "two modules shared their input in the first batch but not here",
                where=f"{observer.leader}, {observer.target.name}",
                do="exclude one of them",
            )


class Observer:
    """What one target shows to a pass; stands in for its forward.

    Attributes:
        keeps_input: whether the input is kept until the backward, to be seen together with the gradient.
        wants_product: whether the product `Wh` is seen without the bias.
    """

    keeps_input = wants_product = False

    def __init__(self, run: DataPass, target: Target) -> None:
        # Referred to weakly, for the pass holds its observers: sums in a cycle would stay in memory until Python looks
        # for cycles, and a walk makes new ones for every block.
        self.run: DataPass = weakref.proxy(run)
        self.target, self.leader = target, run.inputs[target.name]

    def forward(self, h: Tensor) -> Tensor:
        """Stands in for the module's forward."""
        weight = self.target.module.get_parameter("weight")
        bias = self.target.module._parameters["bias"]
        return ObservedLinear.apply(h, weight.t() if self.target.transposed else weight, bias, self)  # type: ignore[no-any-return] # untyped in torch

    def see_input(self, h: Tensor, weight: Tensor, product: Tensor) -> None:
        """Called in every forward; h [..., n], weight [m, n], product [..., m]."""

    def see_gradient(self, delta: Tensor, weight: Tensor, g: Tensor, h: Tensor | None) -> None:
        """Called in every backward; delta [..., m], g = W' delta [..., n], h [..., n] where it is kept."""


def _shared_inputs(model: nn.Module, targets: Sequence[Target], batch: Batch) -> dict[str, str]:
    """`leaders` of a forward pass over a few tokens."""
    start = int(batch.attention_mask[0].nonzero()[0])
    ids = batch.input_ids[:1, start : start + PROBE_TOKENS].to(weight_matrix(targets[0]).device)
    with torch.no_grad():
        return leaders(targets, lambda: model(input_ids=ids, attention_mask=torch.ones_like(ids)))


def leaders(targets: Sequence[Target], run: Callable[[], object]) -> dict[str, str]:
    """Module name -> first module that reads the very same tensor while `run` runs the model forward.

    Raises:
        ModelError: if a target is not used at all.
    """
    seen: list[tuple[str, Tensor]] = []  # tensors are held, so that no two of them can be one after the other

    def watch(target: Target) -> Callable[[Tensor], Tensor]:
        original = target.module.forward

        def forward(h: Tensor) -> Tensor:
            seen.append((target.name, h))
            return original(h)

        return forward

    with replaced_forwards({target: watch(target) for target in targets}):
        run()
    found: dict[str, str] = {}
    for name, h in seen:
        found.setdefault(name, next(other for other, read in seen if read is h))
    unused = [target.name for target in targets if target.name not in found]
    if unused:
        kinds = sorted({name.rpartition(".")[2] for name in unused})
        raise ModelError(
            "a target is never used",
            where=", ".join(unused[:3]),
            got=len(unused),
            do=f"leave them out: --set 'init.exclude=[{', '.join(kinds)}]', beside what is excluded already",
        )
    return found


@contextmanager
def replaced_forwards(replacements: dict[Target, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Modules with other forward functions, for the duration of the block."""
    before = {target: target.module.__dict__.get("forward") for target in replacements}
    try:
        for target, forward in replacements.items():
            target.module.forward = forward  # type: ignore[method-assign] # undone below
        yield
    finally:
        for target, original in before.items():
            del target.module.forward
            if original is not None:  # somebody else's replacement, for example accelerate's
                target.module.forward = original
