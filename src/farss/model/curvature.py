"""The data pass over a resident model: exact second moments on the smaller side of every target, in one run.

Each target's forward is replaced, for the duration of the pass, by a linear function without weight gradient that shows
its input while the model runs forward and its output gradient while it runs backward. Inputs are only counted in the
forward phase, so gradient checkpointing, which runs a block's forward a second time during the backward phase, changes
nothing; and no activation is kept for the moments' sake.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from farss.config import Fisher, LossNorm, Tokens
from farss.errors import DataError, ModelError, NumericalError
from farss.model.calibration import Batch
from farss.model.loss import SupervisedLoss
from farss.model.moments import Curvature, SymmetricSum
from farss.model.targets import Target, weight_matrix

__all__ = ["Curvature", "collect"]

HALF = (torch.float16, torch.bfloat16)
FLOAT16_LOSS_SCALE = 2.0**10
"""float16 gradients below 6e-8 vanish; the loss is multiplied by this power of two and the moments divided by it."""

PROBE_TOKENS = 8

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
        run = _Pass(targets, inputs, {"tokens": tokens, "loss_norm": loss_norm, "fisher": fisher})
        stack.enter_context(run.observing())
        reader = stack.enter_context(SupervisedLoss(model, loss_norm, fisher, seed).reading())
        total, done = sum(batch.tokens for batch in queue), 0
        for number, batch in enumerate(queue):
            run.batch(reader, batch, f"batch {number}")
            done += batch.tokens
            if progress is not None:
                progress(done, total)
    return run.finished()


def check_supervision(queue: list[Batch]) -> None:
    """Check that there are batches, and that each has something to learn.

    Raises:
        DataError: if there is none, or one supervises no token.
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


class _Pass:
    """State of one data pass: the phase, the rows of the current batch that count, and the growing sums."""

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
        self.loss_scale = FLOAT16_LOSS_SCALE if weight_matrix(targets[0]).dtype is torch.float16 else 1.0

    @contextmanager
    def observing(self) -> Iterator[None]:
        """Replace the targets' forward functions, and put them back."""
        with replaced_forwards({o.target: o.forward for o in self.observers}):
            yield

    def batch(self, reader: SupervisedLoss, batch: Batch, where: str) -> None:
        """Run one batch forward and backward, adding to the sums."""
        device = weight_matrix(self.targets[0]).device
        self._choose_rows(batch, device)
        self.phase = "forward"
        loss = reader.loss(batch.to(device))
        if not bool(torch.isfinite(loss)):
            raise NumericalError("the loss is not finite", where=where, got=loss.item(), do="check model and data")
        self.phase = "backward"
        (loss * self.loss_scale).backward()
        self.phase = "idle"
        if not reader.gradient_is_finite():
            raise NumericalError("a gradient is not finite", where=where, do="run the model in float32 or bfloat16")
        self.curvature.tokens += self.row_count
        self.curvature.supervised += int(batch.supervised.sum())
        self.curvature.sequences += batch.input_ids.shape[0]

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

    def finished(self) -> Curvature:
        """The sums, gradients freed of the loss scale."""
        for key, sums in self.curvature.sums.items():
            if self.loss_scale != 1.0 and key.startswith(("delta/", "g/")):
                sums.packed.div_(self.loss_scale**2)
        return self.curvature


class _Observer:
    """What is kept of one target: sums on its smaller side (methods: one basis is enough)."""

    def __init__(self, run: _Pass, target: Target, leader: str, shared_h: bool) -> None:
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
            self.y.add(_exact_product(self.run.select(h, self.target), weight.t()))
        elif self.y is not None:
            self.y.add(self.run.select(product, self.target))

    def see_gradient(self, delta: Tensor, weight: Tensor, g: Tensor) -> None:
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


def _shared_inputs(model: nn.Module, targets: Sequence[Target], batch: Batch) -> dict[str, str]:
    """Module name -> first module that reads the very same tensor, seen in a forward pass over a few tokens.

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

    start = int(batch.attention_mask[0].nonzero()[0])
    ids = batch.input_ids[:1, start : start + PROBE_TOKENS].to(weight_matrix(targets[0]).device)
    with replaced_forwards({target: watch(target) for target in targets}), torch.no_grad():
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    leaders: dict[str, str] = {}
    for name, h in seen:
        leaders.setdefault(name, next(other for other, read in seen if read is h))
    unused = [target.name for target in targets if target.name not in leaders]
    if unused:
        raise ModelError("a target is never used", where=", ".join(unused[:3]), got=len(unused), do="exclude it")
    return leaders


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


def keep_checkpointing(model: nn.Module) -> None:
    """Put checkpointed blocks, not their children, in training mode, the only one in which transformers checkpoints."""
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False) and not _drops_out(module):
            module.training = True


def _drops_out(module: nn.Module) -> bool:
    rates = (value for name, value in vars(module).items() if "drop" in name and isinstance(value, float))
    return any(rate > 0 for rate in rates)


@contextmanager
def full_precision_products() -> Iterator[None]:
    """float32 matrix products in float32 (no TF32, no bfloat16), whatever the process prefers."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
