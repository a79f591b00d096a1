"""The data pass over a resident model: exact second moments on the smaller side of every target, in one run.

No weight gradient is computed and no activation is kept for the moments' sake (`observing` says how).
`farss.statistics.streamed` does the same for a model that does not fit in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from farss.config import Fisher, LossNorm, Tokens
from farss.model.calibration import Batch
from farss.model.targets import Target, weight_matrix
from farss.statistics.keeping import Keep
from farss.statistics.moments import Curvature, SymmetricSum
from farss.statistics.observing import DataPass, Observer, Progress, observe
from farss.statistics.readers import reader_for
from farss.statistics.summed import Summed

__all__ = ["Curvature", "CurvaturePass", "collect"]

HALF = (torch.float16, torch.bfloat16)


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
        model: a causal language model in memory, or a sequence classifier for labelled batches.
        batches: padded batches, of `calibration.batches` or `classification.labelled_batches`.
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
    settings = {"tokens": tokens, "loss_norm": loss_norm, "fisher": fisher}
    queue = list(batches)[:max_batches]
    reader = reader_for(queue, model, loss_norm, fisher, seed)
    run = observe(
        model, queue, targets, lambda inputs: CurvaturePass(targets, inputs, settings), reader, progress, keep
    )
    return run.finished()


class CurvaturePass(DataPass):
    """Sums of the second moments that score directions.

    Args:
        targets: the modules observed.
        inputs: module name -> first module that reads the very same tensor.
        settings: how rows are chosen and weighted; `Curvature.settings`.
    """

    def __init__(self, targets: Sequence[Target], inputs: dict[str, str], settings: dict[str, Any]) -> None:
        super().__init__(targets, inputs, settings["tokens"])
        tall_or_square = {inputs[t.name] for t in targets if t.shape[0] >= t.shape[1]}
        self.moments = [_Moments(self, t, inputs[t.name] in tall_or_square) for t in targets]
        self.observers = self.moments
        sums = {key: s for observer in self.moments for key, s in observer.sums.items()}
        self.summed = self.curvature = Curvature(sums, inputs, {t.name: t.shape for t in targets}, settings)

    def count(self, batch: Batch) -> None:
        """Add the batch to the counts of the curvature."""
        self.curvature.count(self.row_count, batch)

    def adopt(self, summed: Summed) -> None:
        """Add to these sums, which an earlier pass of the same settings has finished, instead of to new ones."""
        curvature = cast(Curvature, summed)
        self.curvature.check_like(curvature)
        self.summed = self.curvature = curvature
        self._scale(self.loss_scale**2)
        for moments in self.moments:
            moments.place({key: curvature.sums[key] for key in moments.sums})

    def finished(self) -> Curvature:
        """The sums, gradients freed of the loss scale."""
        self._scale(self.loss_scale**-2)
        return self.curvature

    def _scale(self, factor: float) -> None:
        """Multiply what is quadratic in the gradient; the scales are powers of two, so nothing is rounded."""
        for key, sums in self.curvature.sums.items():
            if factor != 1.0 and key.startswith(("delta/", "g/")):
                sums.packed.mul_(factor)


class _Moments(Observer):
    """What is kept of one target: sums on its smaller side (methods: one basis is enough)."""

    def __init__(self, run: DataPass, target: Target, shared_h: bool) -> None:
        super().__init__(run, target)
        weight = weight_matrix(target)
        dtype = torch.float64 if weight.dtype is torch.float64 else torch.float32
        m, n = target.shape
        kinds = {"g": n} if m > n else {"delta": m}
        if shared_h and self.leader == target.name:
            kinds["h"] = n
        if m < n and not shared_h:
            kinds["y"] = m
        self.place({f"{kind}/{target.name}": SymmetricSum(k, dtype, weight.device) for kind, k in kinds.items()})
        self.wants_product = self.y is not None

    def place(self, sums: dict[str, SymmetricSum]) -> None:
        """Add to these sums from now on."""
        self.sums, name = sums, self.target.name
        self.h, self.y = sums.get(f"h/{name}"), sums.get(f"y/{name}")
        self.delta, self.g = sums.get(f"delta/{name}"), sums.get(f"g/{name}")

    def see_input(self, h: Tensor, weight: Tensor, product: Tensor) -> None:
        """Count h, or product = Wh where that is kept."""
        if self.run.phase != "forward":
            return  # the second forward of a checkpointed block
        self.run.check_shared(self, h)
        if self.h is not None:
            self.h.add(self.run.select(h, self.target))
        if self.y is not None and product.dtype in HALF:
            # Rounded outputs would put a noise floor under the directions of small sigma.
            self.y.add(_exact_product(self.run.select(h, self.target), weight.t()))
        elif self.y is not None:
            self.y.add(self.run.select(product, self.target))

    def see_gradient(self, delta: Tensor, weight: Tensor, g: Tensor, h: Tensor | None) -> None:
        """Count the output gradient, or g = W' delta on a tall module."""
        if self.delta is not None:
            self.delta.add(self.run.select(delta, self.target))
        if self.g is not None and g.dtype in HALF:
            self.g.add(_exact_product(self.run.select(delta, self.target), weight))
        elif self.g is not None:
            self.g.add(self.run.select(g, self.target))


def _exact_product(a: Tensor, b: Tensor) -> Tensor:
    """`a b` in float32 at least; products of half-precision numbers are exact there and only their sums round."""
    if a.dtype not in HALF:
        return a @ b
    if a.device.type == "cuda":
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()
