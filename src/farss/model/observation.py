"""Watching linear modules while a model runs: their inputs and output gradients, summed as second moments.

Each target's forward is replaced, for the duration of a pass, by a linear function without weight gradient that shows
its input while the model runs forward and its output gradient while it runs backward. Inputs are only counted in the
forward phase, so gradient checkpointing, which runs a block's forward a second time during the backward phase, changes
nothing; and no activation is kept for the moments' sake.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from farss.errors import ModelError
from farss.model.calibration import Batch
from farss.model.moments import Curvature, SymmetricSum
from farss.model.targets import Target, weight_matrix

HALF = (torch.float16, torch.bfloat16)
FLOAT16_LOSS_SCALE = 2.0**10
"""float16 gradients below 6e-8 vanish; the loss is multiplied by this power of two and the moments divided by it."""


def loss_scale(dtype: torch.dtype) -> float:
    """The factor that keeps the gradients of a model of this dtype within its range."""
    return FLOAT16_LOSS_SCALE if dtype is torch.float16 else 1.0


class Observation:
    """State of a data pass over some targets: the phase, the rows of the batch that count, and the growing sums.

    Args:
        targets: the modules observed.
        inputs: module name -> first module that reads the very same tensor.
        settings: how rows are chosen and weighted; `Curvature.settings`.
    """

    def __init__(self, targets: Sequence[Target], inputs: dict[str, str], settings: dict[str, Any]) -> None:
        self.targets = targets
        self.phase = "idle"
        self.rows: Tensor | None = None
        self.positions = self.row_count = 0
        self.read: dict[str, weakref.ref[Tensor]] = {}
        tall_or_square = {inputs[t.name] for t in targets if t.shape[0] >= t.shape[1]}
        self.observers = [_Observer(self, t, inputs[t.name], inputs[t.name] in tall_or_square) for t in targets]
        sums = {key: s for observer in self.observers for key, s in observer.sums.items()}
        self.curvature = Curvature(sums, inputs, {t.name: t.shape for t in targets}, settings)
        self.loss_scale = loss_scale(weight_matrix(targets[0]).dtype)

    @contextmanager
    def observing(self) -> Iterator[None]:
        """Replace the targets' forward functions, and put them back."""
        with replaced_forwards({o.target: o.forward for o in self.observers}):
            yield

    def observe(self, batch: Batch, forward: Callable[[], Tensor], gradient: Tensor | None = None) -> Tensor:
        """Run `forward` and then backward from what it returns, adding to the sums.

        Args:
            batch: whose rows `forward` reads.
            forward: gives the loss (times `loss_scale`), or the outputs of a part of the model.
            gradient: of the loss (times `loss_scale`) with respect to those outputs; None for the loss itself.

        Returns:
            What `forward` returned, detached.
        """
        self._choose_rows(batch, weight_matrix(self.targets[0]).device)
        self.phase = "forward"
        try:
            output = forward()
            self.phase = "backward"
            output.backward(gradient)
        finally:
            self.phase = "idle"
        self.curvature.tokens += self.row_count
        self.curvature.supervised += int(batch.supervised.sum())
        self.curvature.sequences += batch.input_ids.shape[0]
        return output.detach()

    def _choose_rows(self, batch: Batch, device: torch.device) -> None:
        chosen = {
            "nonpad": batch.attention_mask.bool(),
            "response": batch.supervised,
            "all": torch.ones_like(batch.attention_mask, dtype=torch.bool),
        }[self.curvature.settings["tokens"]]
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

    def check_shared(self, observer: _Observer, h: Tensor) -> None:
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

    def restore(self, before: Curvature) -> None:
        """Go on from the sums of an interrupted pass over the same targets.

        Raises:
            DataError: if they are of other modules or settings.
        """
        self.curvature.take(before)

    def finished(self) -> Curvature:
        """The sums, gradients freed of the loss scale."""
        for key, sums in self.curvature.sums.items():
            if self.loss_scale != 1.0 and key.startswith(("delta/", "g/")):
                sums.packed.div_(self.loss_scale**2)
        return self.curvature


class _ObservedLinear(torch.autograd.Function):
    """`y = W h + b` that shows h and the gradient of y to an observer and computes no weight gradient."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, bias: Tensor | None, observer: _Observer) -> Tensor:
        ctx.observer = observer
        ctx.save_for_backward(weight)
        if observer.y is None or bias is None:
            y = functional.linear(h, weight, bias)
            observer.see_input(h, weight, y)
            return y
        product = functional.linear(h, weight)  # the moments want Wh without the bias
        observer.see_input(h, weight, product)
        return product + bias

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override] # fixed arity
        (weight,) = ctx.saved_tensors
        g = delta @ weight
        ctx.observer.see_gradient(delta, weight, g)
        return g, None, None, None


class _Observer:
    """What is kept of one target: sums on its smaller side (methods: one basis is enough)."""

    def __init__(self, run: Observation, target: Target, leader: str, shared_h: bool) -> None:
        self.run, self.target, self.leader = run, target, leader
        weight = weight_matrix(target)
        dtype = torch.float64 if weight.dtype is torch.float64 else torch.float32
        m, n = target.shape
        kinds = {"g": n} if m > n else {"delta": m}
        if shared_h and leader == target.name:
            kinds["h"] = n
        if m < n and not shared_h:
            kinds["y"] = m
        self.sums = {f"{kind}/{target.name}": SymmetricSum(k, dtype, weight.device) for kind, k in kinds.items()}
        self.h, self.y = self.sums.get(f"h/{target.name}"), self.sums.get(f"y/{target.name}")
        self.delta, self.g = self.sums.get(f"delta/{target.name}"), self.sums.get(f"g/{target.name}")

    def forward(self, h: Tensor) -> Tensor:
        """Stands in for the module's forward."""
        weight = self.target.module.get_parameter("weight")
        bias = self.target.module._parameters["bias"]
        return _ObservedLinear.apply(h, weight.t() if self.target.transposed else weight, bias, self)  # type: ignore[no-any-return] # untyped in torch

    def see_input(self, h: Tensor, weight: Tensor, product: Tensor) -> None:
        """Count h, or product = Wh where that is kept."""
        if self.run.phase != "forward":
            return  # the second forward of a checkpointed block
        self.run.check_shared(self, h)
        if self.h is not None:
            self.h.add(self.run.select(h, self.target))
        if self.y is not None and product.dtype in HALF:
            # Rounded outputs would put a noise floor under the directions of small sigma.
            self.y.add(exact_product(self.run.select(h, self.target), weight.t()))
        elif self.y is not None:
            self.y.add(self.run.select(product, self.target))

    def see_gradient(self, delta: Tensor, weight: Tensor, g: Tensor) -> None:
        """Count the output gradient, or g = W' delta on a tall module."""
        if self.delta is not None:
            self.delta.add(self.run.select(delta, self.target))
        if self.g is not None and g.dtype in HALF:
            self.g.add(exact_product(self.run.select(delta, self.target), weight))
        elif self.g is not None:
            self.g.add(self.run.select(g, self.target))


def exact_product(a: Tensor, b: Tensor) -> Tensor:
    """`a b` in float32 at least; products of half-precision numbers are exact there and only their sums round."""
    if a.dtype not in HALF:
        return a @ b
    if a.device.type == "cuda":
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


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


@contextmanager
def reading_only(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without trainable parameters; all flags of before afterwards."""
    training = {module: module.training for module in model.modules()}
    trainable = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        model.eval()
        model.requires_grad_(False)
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
        for parameter, mode in trainable.items():
            parameter.requires_grad_(mode)


@contextmanager
def full_precision_products() -> Iterator[None]:
    """float32 matrix products in float32 (no TF32, no bfloat16), whatever the process prefers."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
