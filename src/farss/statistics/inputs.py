"""Second moments of the inputs of every target, full size: a forward pass over a resident model.

The curvature keeps moments on a module's smaller side; methods that start an adapter from the inputs themselves (CorDA,
LoRA-Null, EVA) need them on the input side whatever the shape. Modules that read the same input share one sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from farss.config import SampleScale, Tokens
from farss.errors import DataError, NumericalError
from farss.model.calibration import Batch
from farss.model.loss import SupervisedLoss
from farss.model.targets import Target, weight_matrix
from farss.statistics.keeping import Keep
from farss.statistics.moments import Moments, SymmetricSum
from farss.statistics.observing import DataPass, Observer, Progress, observe
from farss.statistics.readers import reader_for


@dataclass
class InputMoments(Moments):
    """Sums of `h h'` over token positions.

    The kinds of sum are "h", the inputs as they are, and, where `settings["sample_scale"]` asks for it, "scaled": the
    inputs of each sequence divided by its `signed_maximum`.
    """

    FORMAT = "farss-inputs-1"
    HEAD = "input moments"

    def second_moment(self, target: Target | str) -> Tensor:
        """E[h h'] over positions, [n, n] float64, uncentred, on the CPU.

        Raises:
            DataError: if the module was not observed.
            NumericalError: if it is not finite.
        """
        name = self._known(target)
        return self._finite(name, self._mean(f"h/{self.inputs[name]}"))

    def scaled_second_moment(self, target: Target | str) -> Tensor:
        """As CorDA publishes it: the sum over positions of scaled inputs, divided by the number of sequences, [n, n].

        Raises:
            DataError: if the module was not observed, or not with scaled samples.
            NumericalError: if it is not finite.
        """
        name = self._known(target)
        key = f"scaled/{self.inputs[name]}"
        if key not in self.sums:
            raise DataError("the inputs were not scaled sample by sample", where=name, do="collect them again")
        return self._finite(name, self.sums[key].dense().div_(max(self.sequences, 1)))

    def _known(self, target: Target | str) -> str:
        name = target if isinstance(target, str) else target.name
        if name not in self.inputs:
            raise DataError("no input moments for this module", where=name, got=f"{len(self.inputs)} other modules")
        return name

    def _finite(self, name: str, moment: Tensor) -> Tensor:
        if not bool(torch.isfinite(moment).all()):
            raise NumericalError("a second moment is not finite", where=name, do="run the model in float32")
        return moment.cpu()


def collect_inputs(
    model: nn.Module,
    batches: Iterable[Batch],
    targets: Sequence[Target],
    *,
    tokens: Tokens = "nonpad",
    sample_scale: SampleScale = "none",
    max_batches: int | None = None,
    progress: Progress | None = None,
    keep: Keep | None = None,
) -> InputMoments:
    """Second moments of the inputs of `targets` over all batches; no gradient is computed and no label is needed.

    Args:
        model: a causal language model in memory; it is only read.
        batches: padded batches, for example of `calibration.batches`.
        targets: of `find_targets` on the same model.
        tokens: positions that count: "nonpad", "response" or "all", as in `curvature.collect`.
        sample_scale: "signed_maximum" also sums inputs scaled sequence by sequence, as CorDA publishes it.
        max_batches: stop after so many.
        progress: called with (real tokens done, real tokens in total) after every batch.
        keep: where the sums so far are kept, as of `curvature.collect`.

    Returns:
        Sums in float32 (float64 for float64 weights) of n*n/2 numbers and a little more for every distinct input.

    Raises:
        DataError: if there is no batch, or no position of one counts.
        ModelError: if a target is not used, or does not see one row per token.
        NumericalError: if the largest entry of a sequence is zero where it is to be divided by it.
    """
    settings = {"tokens": tokens, "sample_scale": sample_scale}
    queue = list(batches)[:max_batches]
    run = observe(
        model,
        queue,
        targets,
        lambda inputs: _InputPass(targets, inputs, settings),
        reader_for(queue, model),  # only its way of running the model is used
        progress,
        keep,
    )
    return run.moments


def signed_maximum(h: Tensor) -> Tensor:
    """`|max(h)|`, a scalar: the magnitude of the largest entry *with its sign*, not the largest magnitude.

    Every public version of CorDA divides a sample by this number; it may be far below the largest magnitude.
    """
    return h.max().abs()


class _InputPass(DataPass):
    """A forward pass that sums what the first reader of every input sees."""

    def __init__(self, targets: Sequence[Target], inputs: dict[str, str], settings: dict[str, Any]) -> None:
        super().__init__(targets, inputs, settings["tokens"])
        self.chosen = torch.zeros(0)
        self.observers = [_Inputs(self, target, settings["sample_scale"]) for target in targets]
        sums = {key: s for observer in self.observers for key, s in observer.sums.items()}
        self.summed = self.moments = InputMoments(sums, inputs, {t.name: t.shape for t in targets}, settings)

    def check(self, queue: list[Batch]) -> None:
        """Make sure that some position of every batch counts.

        Raises:
            DataError: if none does; labels are not needed otherwise.
        """
        for number, batch in enumerate(queue):
            if not bool(self.counted(batch).any()):
                raise DataError(
                    "no position of a calibration batch counts", where=f"batch {number}", got=f"tokens={self.tokens}"
                )

    def batch(self, reader: SupervisedLoss, batch: Batch, where: str) -> None:
        """Run one batch forward."""
        device = weight_matrix(self.targets[0]).device
        self.choose_rows(batch, device)
        self.chosen = self.counted(batch).to(device)
        self.phase = "forward"
        reader.read(batch.to(device))
        self.phase = "idle"
        self.count(batch)

    def count(self, batch: Batch) -> None:
        """Add the batch to the counts of the moments."""
        self.moments.count(self.row_count, batch)


class _Inputs(Observer):
    def __init__(self, run: _InputPass, target: Target, sample_scale: SampleScale) -> None:
        super().__init__(run, target)
        self.input_pass = run
        weight = weight_matrix(target)
        dtype = torch.float64 if weight.dtype is torch.float64 else torch.float32
        kinds = ("h", "scaled") if sample_scale == "signed_maximum" else ("h",)
        leads = self.leader == target.name
        n = target.shape[1]
        self.sums = {f"{kind}/{target.name}": SymmetricSum(n, dtype, weight.device) for kind in kinds if leads}

    def see_input(self, h: Tensor, weight: Tensor, product: Tensor) -> None:
        """Count h, and each sequence of it scaled."""
        self.run.check_shared(self, h)
        rows = self.run.select(h, self.target)
        for key, total in self.sums.items():
            total.add(rows if key.startswith("h/") else self._scaled(h))

    def _scaled(self, h: Tensor) -> Tensor:
        """The counted rows, those of each sequence divided by its signed maximum, [rows, n]."""
        wide = torch.promote_types(h.dtype, torch.float32)
        parts = []
        for sequence, chosen in zip(h.reshape(*self.input_pass.chosen.shape, -1), self.input_pass.chosen, strict=True):
            rows = sequence[chosen].to(wide)
            if not len(rows):
                continue
            largest = signed_maximum(rows)
            if not bool(largest > 0):
                raise NumericalError(
                    "the largest entry of a sample is zero, so the sample cannot be scaled by it",
                    where=self.target.name,
                    do="use init.start.covariance_scale: trace",
                )
            parts.append(rows / largest)
        return torch.cat(parts)
