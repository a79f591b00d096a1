"""The data pass over a resident model: exact second moments on the smaller side of every target, in one run.

`farss.model.streamed` does the same for a model that does not fit in memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor, nn

from farss.config import Fisher, LossNorm, Tokens
from farss.errors import DataError, ModelError, NumericalError
from farss.model.calibration import Batch
from farss.model.loss import SupervisedLoss
from farss.model.moments import Curvature, notes_of
from farss.model.observation import Observation, full_precision_products, reading_only, replaced_forwards
from farss.model.targets import Target, weight_matrix

__all__ = ["Curvature", "Keep", "collect"]

PROBE_TOKENS = 8

KEEP_SECONDS = 60.0

Progress = Callable[[int, int], None]


def collect(
    model: nn.Module,
    batches: Iterable[Batch],
    targets: Sequence[Target],
    *,
    tokens: Tokens = "nonpad",
    loss_norm: LossNorm = "token_sum",
    fisher: Fisher = "empirical",
    max_batches: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    keep: Keep | None = None,
) -> Curvature:
    """Second moments of inputs and output gradients of `targets` over all batches (section 2.1 of the paper).

    The model is only read: parameters, gradients, training flags and forward functions are as before afterwards.

    Args:
        model: a causal language model in memory.
        batches: padded batches, for example of `calibration.batches`.
        targets: of `find_targets` on the same model.
        tokens: positions that count: "nonpad"; "response" (positions whose next token is supervised); "all" (padding
            too, as the published code does).
        loss_norm: gradient of the summed token losses, which makes the result independent of batching, or of the
            batch's mean, as the published code does.
        fisher: labels of the data, or drawn from the model's own distribution at the supervised positions.
        max_batches: stop after so many.
        seed: of the draws of `fisher="sampled"`.
        progress: called with (real tokens done, real tokens in total) after every batch.
        keep: where the sums so far are kept now and then; an interrupted pass with the same `keep` goes on from there
            and ends with the same bits. None keeps nothing.

    Raises:
        DataError: if there is no batch, or a batch supervises nothing.
        ModelError: if a target is not used, or does not see one row per token.
        NumericalError: if the loss or a gradient is not finite; the batch is named.
    """
    queue = list(batches)[:max_batches]
    check_supervision(queue)
    with ExitStack() as stack:
        stack.enter_context(reading_only(model))
        stack.enter_context(full_precision_products())
        inputs = _shared_inputs(model, targets, queue[0])
        keep_checkpointing(model)
        run = Observation(targets, inputs, {"tokens": tokens, "loss_norm": loss_norm, "fisher": fisher})
        stack.enter_context(run.observing())
        reader = stack.enter_context(SupervisedLoss(model, loss_norm, fisher, seed).reading())
        first = keep.restore(run, reader) if keep else 0
        total, done = sum(batch.tokens for batch in queue), sum(batch.tokens for batch in queue[:first])
        for number, batch in enumerate(queue[first:], start=first):
            _run_batch(run, reader, batch, f"batch {number}")
            done += batch.tokens
            if keep is not None and number + 1 < len(queue):
                keep.offer(run, reader, number + 1)
            if progress is not None:
                progress(done, total)
    return run.finished()


class Keep:
    """The sums of a pass under way, in a file.

    Args:
        path: the file.
        identity: of model, data and settings; a file of another identity is not used.
        seconds: least time between two writes, which take the longer the larger the sums are; None means a minute.
    """

    def __init__(self, path: str | Path, identity: str, seconds: float | None = None) -> None:
        self.path, self.identity = Path(path), identity
        self.seconds = KEEP_SECONDS if seconds is None else seconds
        self.last = time.monotonic()

    def restore(self, run: Observation, reader: SupervisedLoss) -> int:
        """Put the kept sums, if there are any, into a pass about to begin; the number of batches they hold."""
        if not self.path.is_file():
            return 0
        notes = notes_of(self.path)
        if notes.get("identity") != self.identity:
            return 0
        run.restore(Curvature.load(self.path))
        reader.set_random_state(bytes.fromhex(notes["random_state"]))
        return int(notes["batches"])

    def offer(self, run: Observation, reader: SupervisedLoss, batches: int) -> None:
        """Write the sums after so many batches, unless they were written a moment ago."""
        if time.monotonic() - self.last < self.seconds:
            return
        random_state = reader.random_state().hex()
        notes = {"identity": self.identity, "batches": str(batches), "random_state": random_state}
        run.curvature.save(self.path, notes)
        self.last = time.monotonic()


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


def _run_batch(run: Observation, reader: SupervisedLoss, batch: Batch, where: str) -> None:
    here = batch.to(weight_matrix(run.targets[0]).device)

    def forward() -> Tensor:
        loss = reader.loss(here)
        if not bool(torch.isfinite(loss)):
            raise NumericalError("the loss is not finite", where=where, got=loss.item(), do="check model and data")
        return loss * run.loss_scale

    run.observe(batch, forward)
    if not reader.gradient_is_finite():
        raise NumericalError("a gradient is not finite", where=where, do="run the model in float32 or bfloat16")


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
        raise ModelError("a target is never used", where=", ".join(unused[:3]), got=len(unused), do="exclude it")
    return found


def keep_checkpointing(model: nn.Module) -> None:
    """Put checkpointed blocks, not their children, in training mode, the only one in which transformers checkpoints."""
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False) and not _drops_out(module):
            module.training = True


def _drops_out(module: nn.Module) -> bool:
    rates = (value for name, value in vars(module).items() if "drop" in name and isinstance(value, float))
    return any(rate > 0 for rate in rates)
