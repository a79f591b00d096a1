"""How sensitive the loss is to each layer: squared gradients of every example, without any stored weight gradient.

For one sequence with inputs H [t, n] and output gradients D [t, m], the weight gradient of a linear map is `D'H`, and
`||D'H||_F^2 = sum_{t,t'} (HH')_{tt'} (DD')_{tt'}`. One forward and backward pass per batch gives H and D of all its
sequences at once; what is kept of each module is one number.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from farss.config import Fisher
from farss.errors import DataError, ModelError, NumericalError, StorageError
from farss.model.calibration import Batch
from farss.model.curvature import Progress, check_supervision, keep_checkpointing
from farss.model.loss import SupervisedLoss
from farss.model.observation import (
    FLOAT16_LOSS_SCALE,
    full_precision_products,
    reading_only,
    replaced_forwards,
)
from farss.model.targets import Target, weight_matrix
from farss.storage import write_json

LayerScore = Literal["sum", "mean"]


@dataclass(frozen=True)
class LayerFisher:
    """Squared weight gradients, summed over examples.

    Attributes:
        sums: module name -> sum over examples of `||grad_W L(x_n, y_n)||_F^2`; biases are left out, as adapters do.
        examples: N, the number of sequences.
        settings: the choices of the data pass.
    """

    sums: dict[str, float]
    examples: int
    settings: dict[str, Any]

    def scores(self, targets: Sequence[Target], score: LayerScore = "sum") -> dict[int, float]:
        """`F_l = (1/N) sum_n ||grad_{theta_l} L(x_n, y_n)||^2` over the targets of each layer, by layer index.

        Args:
            targets: modules that count; those outside layers are passed over.
            score: "sum", or "mean": divided by the number of weights, for models whose layers differ in size.

        Raises:
            DataError: if a target was not part of the data pass.
        """
        missing = [target.name for target in targets if target.name not in self.sums]
        if missing:
            raise DataError("the layer scores lack a module", where=missing[0], got=f"{len(missing)} missing")
        totals: dict[int, float] = {}
        sizes: dict[int, int] = {}
        for target in targets:
            if target.layer is not None:
                totals[target.layer] = totals.get(target.layer, 0.0) + self.sums[target.name] / self.examples
                sizes[target.layer] = sizes.get(target.layer, 0) + target.shape[0] * target.shape[1]
        return {layer: totals[layer] / (sizes[layer] if score == "mean" else 1) for layer in sorted(totals)}

    def save(self, path: str | Path) -> None:
        """Write as JSON, atomically.

        Raises:
            StorageError: if the file cannot be written.
        """
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            StorageError: if the file is missing or damaged.
        """
        try:
            return cls(**json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise StorageError("the layer scores cannot be read", where=path, got=str(error)) from error


def collect_layer_fisher(
    model: nn.Module,
    batches: Iterable[Batch],
    targets: Sequence[Target],
    *,
    fisher: Fisher = "empirical",
    max_batches: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> LayerFisher:
    """Squared weight gradients of `targets`, example by example, for L the summed loss of an example's response.

    Unlike the squared norm of a batch's mean gradient, which the published code takes, the result does not depend on
    how the examples are batched. Padding adds nothing: no loss reaches it, so its output gradients are zero.

    Args:
        model: a causal language model in memory; only read.
        batches: padded batches, for example of `calibration.batches`.
        targets: of `find_targets` on the same model.
        fisher: labels of the data, or drawn from the model's own distribution at the supervised positions.
        max_batches: stop after so many.
        seed: of the draws of `fisher="sampled"`.
        progress: called with (real tokens done, real tokens in total) after every batch.

    Raises:
        DataError: if there is no batch, or a batch supervises nothing.
        ModelError: if a target is not used exactly once per pass, or does not see one row per token.
        NumericalError: if the loss or a gradient is not finite; the batch is named.
    """
    queue = list(batches)[:max_batches]
    check_supervision(queue)
    run = _Pass(targets)
    total, done = sum(batch.tokens for batch in queue), 0
    with ExitStack() as stack:
        stack.enter_context(reading_only(model))
        stack.enter_context(full_precision_products())
        keep_checkpointing(model)
        stack.enter_context(run.observing())
        reader = stack.enter_context(SupervisedLoss(model, "token_sum", fisher, seed).reading())
        for number, batch in enumerate(queue):
            run.batch(reader, batch, f"batch {number}")
            done += batch.tokens
            if progress is not None:
                progress(done, total)
    sums = {name: float(value) / run.loss_scale**2 for name, value in run.sums.items()}
    return LayerFisher(sums, sum(batch.input_ids.shape[0] for batch in queue), {"fisher": fisher, "seed": seed})


def squared_gradients(h: Tensor, delta: Tensor) -> Tensor:
    """`||D'H||_F^2` of every sequence, by whichever of its two forms takes fewer products.

    Args:
        h: [b, t, n], inputs, any float; promoted to float32 at least.
        delta: [b, t, m], output gradients.

    Returns:
        [b] float64.
    """
    wide = torch.promote_types(h.dtype, torch.float32)
    h, delta = h.to(wide), delta.to(wide)
    length, n, m = h.shape[1], h.shape[2], delta.shape[2]
    if length * (m + n) < m * n:
        products = (h @ h.mT).to(torch.float64) * (delta @ delta.mT)
        return products.sum((1, 2))
    # One sequence at a time, so that never more than one weight gradient is in memory.
    return torch.stack([(d.T @ x).to(torch.float64).square().sum() for x, d in zip(h, delta, strict=True)])


class _ScoredLinear(torch.autograd.Function):
    """`y = W h + b` whose backward shows h and the gradient of y, and computes no weight gradient."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, weight: Tensor, bias: Tensor | None, see: Callable[[Tensor, Tensor], None]
    ) -> Tensor:
        ctx.see = see
        ctx.save_for_backward(h, weight)
        return functional.linear(h, weight, bias)

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override] # fixed arity
        h, weight = ctx.saved_tensors
        ctx.see(h, delta)
        return delta @ weight, None, None, None


class _Pass:
    """The growing sums of one data pass, and the shape of the batch in it."""

    def __init__(self, targets: Sequence[Target]) -> None:
        weight = weight_matrix(targets[0])
        self.targets, self.device = targets, weight.device
        self.loss_scale = FLOAT16_LOSS_SCALE if weight.dtype is torch.float16 else 1.0
        zero = torch.zeros((), dtype=torch.float64, device=weight.device)
        self.sums = {target.name: zero.clone() for target in targets}
        self.uses = dict.fromkeys(self.sums, 0)
        self.shape = torch.Size(())

    @contextmanager
    def observing(self) -> Iterator[None]:
        """Replace the targets' forward functions, and put them back."""
        with replaced_forwards({target: self._forward(target) for target in self.targets}):
            yield

    def _forward(self, target: Target) -> Callable[[Tensor], Tensor]:
        def see(h: Tensor, delta: Tensor) -> None:
            self._add(target, h, delta)

        def forward(h: Tensor) -> Tensor:
            weight = target.module.get_parameter("weight")
            bias = target.module._parameters["bias"]
            return _ScoredLinear.apply(h, weight.t() if target.transposed else weight, bias, see)  # type: ignore[no-any-return] # untyped in torch

        return forward

    def _add(self, target: Target, h: Tensor, delta: Tensor) -> None:
        rows = h.numel() // h.shape[-1]
        if rows != self.shape.numel():
            raise ModelError(
                "the module does not see one row per token",
                where=target.name,
                expected=f"{self.shape.numel()} rows",
                got=f"{rows} rows",
                do="exclude the module",
            )
        h, delta = h.reshape(*self.shape, -1), delta.reshape(*self.shape, -1)
        self.sums[target.name] += squared_gradients(h, delta).sum()
        self.uses[target.name] += 1

    def batch(self, reader: SupervisedLoss, batch: Batch, where: str) -> None:
        """Run one batch forward and backward, adding to the sums."""
        self.shape, self.uses = batch.input_ids.shape, dict.fromkeys(self.uses, 0)
        loss = reader.loss(batch.to(self.device))
        if not bool(torch.isfinite(loss)):
            raise NumericalError("the loss is not finite", where=where, got=loss.item(), do="check model and data")
        (loss * self.loss_scale).backward()
        if not reader.gradient_is_finite():
            raise NumericalError("a gradient is not finite", where=where, do="run the model in float32 or bfloat16")
        odd = [f"{name}: {times}" for name, times in self.uses.items() if times != 1]
        if odd:  # gradients of several uses would have to be added before they are squared
            raise ModelError("a target is not used once per pass", where=where, got=", ".join(odd[:3]), do="exclude it")
