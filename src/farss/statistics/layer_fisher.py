"""How sensitive the loss is to each layer: squared gradients of every example, without any stored weight gradient.

For one sequence with inputs H [t, n] and output gradients D [t, m], the weight gradient of a linear map is `D'H`, and
`||D'H||_F^2 = sum_{t,t'} (HH')_{tt'} (DD')_{tt'}`. One forward and backward pass per batch gives H and D of all its
sequences at once; what is kept of each module is one number.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from farss.config import Fisher
from farss.errors import DataError, ModelError, StorageError
from farss.model.calibration import Batch
from farss.model.loss import SupervisedLoss
from farss.model.targets import Target, weight_matrix
from farss.reading import COUNT, OBJECT, Document, object_of
from farss.statistics.keeping import Keep
from farss.statistics.observing import DataPass, Observer, Progress, observe
from farss.statistics.readers import reader_for
from farss.statistics.summed import Summed
from farss.storage import read_tensors, write_tensors

LayerScore = Literal["sum", "mean"]

LAYER_SCORES = Document("record of layer scores", StorageError, damaged="take them anew")
FORMAT = "farss-layer-fisher-1"
HEAD = object_of(format={"const": FORMAT}, examples=COUNT, settings=OBJECT)


@dataclass
class LayerFisher(Summed):
    """Squared weight gradients, summed over examples.

    Attributes:
        sums: module name -> sum over examples of `||grad_W L(x_n, y_n)||_F^2`, a float64 scalar; biases are left out,
            as adapters do.
        examples: N, the number of sequences.
        settings: the choices of the data pass.
    """

    COUNTS: ClassVar[tuple[str, ...]] = ("examples",)

    sums: dict[str, Tensor]
    examples: int
    settings: dict[str, Any]

    def parts(self) -> dict[str, Tensor]:
        """The sums by module name."""
        return self.sums

    def identity(self) -> Any:
        """The modules, and how data were read."""
        return set(self.sums), self.settings

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
                totals[target.layer] = totals.get(target.layer, 0.0) + float(self.sums[target.name]) / self.examples
                sizes[target.layer] = sizes.get(target.layer, 0) + target.shape[0] * target.shape[1]
        return {layer: totals[layer] / (sizes[layer] if score == "mean" else 1) for layer in sorted(totals)}

    def save(self, path: str | Path, notes: Mapping[str, str] | None = None) -> None:
        """Write sums and settings as one safetensors file.

        Args:
            path: the file.
            notes: further metadata, given back by `notes_of`.

        Raises:
            StorageError: if the file cannot be written.
        """
        head = {"format": FORMAT, "examples": self.examples, "settings": self.settings}
        write_tensors(path, self.sums, {**(notes or {}), "layer_fisher": json.dumps(head)})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote, on the CPU.

        Raises:
            StorageError: if the file is missing, damaged, or holds something else.
        """
        tensors, metadata = read_tensors(path)
        head = LAYER_SCORES.parse_as(metadata.get("layer_fisher", "{}"), HEAD, path)
        wrong = [name for name, total in tensors.items() if total.ndim or not 0 <= float(total) < float("inf")]
        if wrong:
            raise StorageError("a sum of squared gradients is none", where=f"{path}: {wrong[0]}")
        return cls(tensors, head["examples"], head["settings"])


def collect_layer_fisher(
    model: nn.Module,
    batches: Iterable[Batch],
    targets: Sequence[Target],
    *,
    fisher: Fisher = "empirical",
    max_batches: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    keep: Keep | None = None,
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
        keep: where the sums so far are kept, as of `curvature.collect`.

    Raises:
        DataError: if there is no batch, or a batch supervises nothing.
        ModelError: if a target is not used exactly once per pass, or does not see one row per token.
        NumericalError: if the loss or a gradient is not finite; the batch is named.
    """
    queue = list(batches)[:max_batches]
    run = observe(
        model,
        queue,
        targets,
        lambda inputs: _ScorePass(targets, inputs, {"fisher": fisher, "seed": seed}),
        reader_for(queue, model, "token_sum", fisher, seed),
        progress,
        keep,
    )
    return run.finished()


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


class _ScorePass(DataPass):
    """The growing sums of one data pass, and how often each target was used in the batch under way."""

    def __init__(self, targets: Sequence[Target], inputs: dict[str, str], settings: dict[str, Any]) -> None:
        super().__init__(targets, inputs, tokens="all")  # what padding adds is zero
        self.scores = [_Scores(self, target) for target in targets]
        self.observers = self.scores
        self.shape = torch.Size(())
        self.summed = self.found = LayerFisher({o.target.name: o.total for o in self.scores}, 0, settings)

    def batch(self, reader: SupervisedLoss, batch: Batch, where: str) -> None:
        """Run one batch forward and backward, adding to the sums."""
        self.shape = batch.input_ids.shape
        for observer in self.scores:
            observer.uses = 0
        super().batch(reader, batch, where)
        odd = [f"{observer.target.name}: {observer.uses}" for observer in self.scores if observer.uses != 1]
        if odd:  # gradients of several uses would have to be added before they are squared
            raise ModelError("a target is not used once per pass", where=where, got=", ".join(odd[:3]), do="exclude it")

    def count(self, batch: Batch) -> None:
        """Add the batch to the number of examples."""
        self.found.examples += batch.input_ids.shape[0]

    def finished(self) -> LayerFisher:
        """The sums, freed of the loss scale."""
        for total in self.found.sums.values():
            total.div_(self.loss_scale**2)
        return self.found


class _Scores(Observer):
    keeps_input = True

    def __init__(self, run: _ScorePass, target: Target) -> None:
        super().__init__(run, target)
        self.score_pass, self.uses = run, 0
        self.total = torch.zeros((), dtype=torch.float64, device=weight_matrix(target).device)

    def see_gradient(self, delta: Tensor, weight: Tensor, g: Tensor, h: Tensor | None) -> None:
        """Add the squared gradients of the batch's sequences."""
        assert h is not None
        shape = (*self.score_pass.shape, -1)
        inputs, deltas = (self.run.select(x, self.target).reshape(shape) for x in (h, delta))
        self.total += squared_gradients(inputs, deltas).sum()
        self.uses += 1
