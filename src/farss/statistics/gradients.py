"""The gradient of the loss with respect to every target's weight, full size, without touching a parameter's `grad`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from farss.errors import DataError, NumericalError, StorageError
from farss.model.calibration import Batch
from farss.model.targets import Target, weight_matrix
from farss.reading import COUNT, Document, object_of
from farss.statistics.keeping import Keep
from farss.statistics.observing import DataPass, Observer, Progress, observe
from farss.statistics.readers import reader_for
from farss.statistics.summed import Summed
from farss.storage import read_tensors, write_tensors

FORMAT = "farss-gradients-1"
GRADIENTS = Document("record of gradients", StorageError, damaged="take them anew")
HEAD = object_of(format={"const": FORMAT}, supervised=COUNT, sequences=COUNT)


@dataclass
class Gradients(Summed):
    """Sums of weight gradients over batches, and the number of supervised positions.

    Attributes:
        sums: module name -> [m, n] float32, or float64 for float64 weights: the gradient of the summed loss.
        supervised: positions with a loss.
        sequences: sequences seen.
    """

    COUNTS: ClassVar[tuple[str, ...]] = ("supervised", "sequences")

    sums: dict[str, Tensor]
    supervised: int = 0
    sequences: int = 0

    def parts(self) -> dict[str, Tensor]:
        """The sums by module name: 4 (or 8) bytes for every adapted weight."""
        return self.sums

    def identity(self) -> Any:
        """The modules."""
        return set(self.sums)

    def mean(self, target: Target | str) -> Tensor:
        """The gradient of the mean loss of a supervised token, [m, n] float64, on the CPU.

        Raises:
            DataError: if the module was not observed.
            NumericalError: if it is not finite.
        """
        name = target if isinstance(target, str) else target.name
        if name not in self.sums:
            raise DataError("no gradient for this module", where=name, got=f"{len(self.sums)} other modules")
        mean = self.sums[name].to(torch.float64).cpu() / max(self.supervised, 1)
        if not bool(torch.isfinite(mean).all()):
            raise NumericalError("a weight gradient is not finite", where=name, do="run the model in float32")
        return mean

    def save(self, path: str | Path, notes: Mapping[str, str] | None = None) -> None:
        """Write sums and counts as one safetensors file.

        Args:
            path: the file.
            notes: further metadata, given back by `notes_of`.

        Raises:
            StorageError: if the file cannot be written.
        """
        head = {"format": FORMAT, "supervised": self.supervised, "sequences": self.sequences}
        write_tensors(path, self.sums, {**(notes or {}), "gradients": json.dumps(head)})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote, on the CPU.

        Raises:
            StorageError: if the file is missing, damaged, or holds something else.
        """
        tensors, metadata = read_tensors(path)
        head = GRADIENTS.parse_as(metadata.get("gradients", "{}"), HEAD, path)
        return cls(tensors, head["supervised"], head["sequences"])


def collect_gradients(
    model: nn.Module,
    batches: Iterable[Batch],
    targets: Sequence[Target],
    *,
    max_batches: int | None = None,
    progress: Progress | None = None,
    keep: Keep | None = None,
) -> Gradients:
    """The gradient of the summed token losses with respect to the weights of `targets`, over all batches.

    The sum of `delta' h` over *all* positions is formed in the backward pass of each module. **Memory:** m*n numbers
    per module at once, four bytes each: as much as the adapted weights in float32 (about 26 GB for a model of 7
    billion parameters), beside the inputs that the backward needs.

    Args:
        model: a causal language model in memory; it is only read, and no parameter receives a gradient.
        batches: padded batches; every one supervises something.
        targets: of `find_targets` on the same model.
        max_batches: stop after so many.
        progress: called with (real tokens done, real tokens in total) after every batch.
        keep: where the sums so far are kept, as of `curvature.collect`.

    Raises:
        DataError: if there is no batch, or a batch supervises nothing.
        ModelError: if a target is not used.
        NumericalError: if the loss or a gradient is not finite; the batch is named.
    """
    queue = list(batches)[:max_batches]
    run = observe(
        model,
        queue,
        targets,
        lambda inputs: _GradientPass(targets, inputs),
        reader_for(queue, model),
        progress,
        keep,
    )
    return run.finished()


class _GradientPass(DataPass):
    def __init__(self, targets: Sequence[Target], inputs: dict[str, str]) -> None:
        super().__init__(targets, inputs, tokens="all")  # what padding adds is zero; prompts have a gradient too
        self.observers = [_Outer(self, target) for target in targets]
        self.summed = self.gradients = Gradients({o.target.name: o.total for o in self.observers})

    def count(self, batch: Batch) -> None:
        """Add the batch to the counts of the gradients."""
        self.gradients.supervised += int(batch.supervised.sum())
        self.gradients.sequences += batch.input_ids.shape[0]

    def finished(self) -> Gradients:
        """The sums, freed of the loss scale."""
        for total in self.gradients.sums.values():
            total.div_(self.loss_scale)
        return self.gradients


class _Outer(Observer):
    keeps_input = True

    def __init__(self, run: DataPass, target: Target) -> None:
        super().__init__(run, target)
        weight = weight_matrix(target)
        dtype = torch.float64 if weight.dtype is torch.float64 else torch.float32
        self.total = torch.zeros(target.shape, dtype=dtype, device=weight.device)

    def see_gradient(self, delta: Tensor, weight: Tensor, g: Tensor, h: Tensor | None) -> None:
        """Add delta' h; both promoted to the dtype of the sum before anything is multiplied."""
        assert h is not None
        rows, inputs = self.run.select(delta, self.target), self.run.select(h, self.target)
        self.total.addmm_(rows.to(self.total.dtype).t(), inputs.to(self.total.dtype))
