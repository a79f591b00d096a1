"""Keeping orthonormal factors orthonormal while any optimiser trains them.

Two hooks on the optimiser act once per optimiser step, however many micro-batches, after unscaling and clipping, and
at the learning rate of the scheduler. Nothing is kept between steps but the factors themselves and, for Cayley-Adam,
its moments in the optimiser's own state; so a resumed training goes on as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from farss.adapters.gated import Constrained, constrained_factors, training_settings
from farss.errors import AdapterError, NumericalError
from farss.maths import stiefel
from farss.training.aids import TrainingAid

TOLERANCE = 1e-6
"""`||X'X - I||_F` above which a factor is brought back before training, for example after a cast to bfloat16."""

BETAS = (0.9, 0.99)
"""Decay of Cayley-Adam's two moments, as published."""

EPSILON = 1e-8

RATES = {"adamw": 1.0, "cayley_adam": 5.0}
"""Learning rate of the factors as a multiple of the training's; published for Cayley-Adam: 1e-3 beside 2e-4."""


def hold_factors_(model: nn.Module, optimizer: Optimizer) -> None:
    """Make every step of `optimizer` leave the constrained factors of `model` orthonormal.

    The factors move to a parameter group of their own, without weight decay and with their own learning rate. Call it
    before the first step and before schedulers are made; a model without constrained factors is left alone.

    Args:
        model: a PEFT model made by `apply` or `load_adapter`.
        optimizer: of any kind; it trains the factors among others.

    Raises:
        AdapterError: if the optimiser does not train the factors, or they are split over processes.

    A later step raises NumericalError where the displacement or the gradient of a factor is not finite.
    """
    factors = list(constrained_factors(model).values())
    if not factors:
        return
    settings = training_settings(model)
    rate = RATES[settings.optimizer] if settings.rate is None else settings.rate
    _regroup(optimizer, [factor.parameter for factor in factors], rate)
    for batch in _alike(factors):
        points = _stack(batch)
        if stiefel.orthogonality_error(points) > TOLERANCE:
            _write(batch, stiefel.nearest(points))
    if settings.optimizer == "adamw":
        steps: _ProjectedSteps | _CayleyAdamSteps = _ProjectedSteps(factors, settings.retraction)
    else:
        steps = _CayleyAdamSteps(factors)
    optimizer.register_step_pre_hook(steps.before)
    optimizer.register_step_post_hook(steps.after)


class HeldFactors(TrainingAid):
    """Orthonormal factors stay orthonormal."""

    name = "held_factors"

    @classmethod
    def serves(cls, model: nn.Module) -> bool:
        """Whether the adapter of `model` has factors that are to stay orthonormal."""
        return bool(constrained_factors(model))

    def prepare(self, optimizer: Optimizer) -> None:
        """Hold them."""
        hold_factors_(self.model, optimizer)


class _ProjectedSteps:
    """The optimiser's own displacement D, projected on the tangent space at the old X and retracted: any optimiser."""

    def __init__(self, factors: Sequence[Constrained], retraction: stiefel.Retraction) -> None:
        self.factors = factors
        self.retraction: stiefel.Retraction = retraction
        self.old: list[tuple[list[Constrained], Tensor]] = []

    @torch.no_grad()
    def before(self, optimizer: Optimizer, *_: Any) -> None:
        """Remember where the factors are."""
        self.old = [(batch, _stack(batch)) for batch in _alike(self.factors)]

    @torch.no_grad()
    def after(self, optimizer: Optimizer, *_: Any) -> None:
        """Turn the plain step into one on the manifold."""
        for batch, x in self.old:
            displacement = _finite(_stack(batch) - x)
            _write(batch, stiefel.retract(x, stiefel.tangent(x, displacement), self.retraction))
        self.old = []


class _CayleyAdamSteps:
    """Cayley-Adam on the factors, which the optimiser itself is kept from: a step rotates X by a Cayley transform.

    One second moment per factor, the squared norm of its gradient; the momentum is carried along to the new point. The
    state (m, v, step) lies in the optimiser's, and is saved and loaded with it.
    """

    def __init__(self, factors: Sequence[Constrained]) -> None:
        self.factors = factors
        self.gradients: list[tuple[nn.Parameter, Tensor]] = []

    def before(self, optimizer: Optimizer, *_: Any) -> None:
        """Take the gradients away, so that the optimiser passes the factors over."""
        parameters = [factor.parameter for factor in self.factors]
        self.gradients = [(p, p.grad) for p in parameters if p.grad is not None]
        for parameter, _gradient in self.gradients:
            parameter.grad = None

    @torch.no_grad()
    def after(self, optimizer: Optimizer, *_: Any) -> None:
        """Give the gradients back and step."""
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        rates = {id(p): float(group["lr"]) for group in optimizer.param_groups for p in group["params"]}
        moved = {id(parameter) for parameter, _ in self.gradients}
        for batch in _alike([factor for factor in self.factors if id(factor.parameter) in moved]):
            self._step(batch, [optimizer.state[f.parameter] for f in batch], rates[id(batch[0].parameter)])
        self.gradients = []

    def _step(self, batch: list[Constrained], states: list[dict[str, Any]], rate: float) -> None:
        """One step of factors of one shape; moments have the dimensions of X, [count, d, r] or [count, 1, 1]."""
        x = _stack(batch)
        g = _finite(torch.stack([_oriented(f, f.parameter.grad).to(torch.float64) for f in batch]))  # type: ignore[arg-type]  # they have gradients
        for factor, state in zip(batch, states, strict=True):
            if not state:
                zero = torch.zeros((), dtype=factor.parameter.dtype, device=factor.parameter.device)
                state.update(step=torch.zeros(()), m=torch.zeros_like(factor.parameter), v=zero)
            state["step"] += 1
        beta1, beta2 = BETAS
        t = torch.stack([state["step"] for state in states]).to(x)[:, None, None]
        m = torch.stack([_oriented(f, s["m"]) for f, s in zip(batch, states, strict=True)]).to(torch.float64)
        v = torch.stack([state["v"] for state in states]).to(torch.float64)[:, None, None]
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g.square().sum((1, 2), keepdim=True)
        unbiased, size = 1 - beta1**t, (v / (1 - beta2**t)).sqrt() + EPSILON
        direction = m / (unbiased * size)
        # min(rate, 1 / ||W||): no turn by more than the transform can follow.
        length = rate / (rate * stiefel.cayley_norm(x, direction)).clamp(min=1)
        # The transform keeps x'x as it is, rounding errors of storage included; one Newton-Schulz step removes them.
        y = stiefel.newton_schulz(stiefel.cayley(x, direction, length))
        m = stiefel.cayley_tangent(x, direction, y) * size * unbiased
        _write(batch, y)
        for factor, state, momentum, square in zip(batch, states, m, v, strict=True):
            state["m"].copy_(_oriented(factor, momentum))
            state["v"].copy_(square.squeeze())


def _regroup(optimizer: Optimizer, parameters: Sequence[nn.Parameter], rate: float) -> None:
    """Move `parameters` to a group of their own, without decay, at `rate` times the learning rate of their group."""
    wanted = {id(p) for p in parameters}
    rates = {id(p): float(group["lr"]) for group in optimizer.param_groups for p in group["params"] if id(p) in wanted}
    if set(rates) != wanted:
        raise AdapterError(
            "the optimiser does not train the constrained factors themselves",
            expected=f"{len(wanted)} factors among its parameters",
            got=len(rates),
            do="make it from the model's trainable parameters; sharded training (FSDP, DeepSpeed ZeRO) is not possible",
        )
    for group in optimizer.param_groups:
        group["params"] = [p for p in group["params"] if id(p) not in wanted]
    learning_rate = rates[id(parameters[0])] * rate
    optimizer.add_param_group({"params": list(parameters), "lr": learning_rate, "weight_decay": 0.0})


def _alike(factors: Sequence[Constrained]) -> Iterator[list[Constrained]]:
    """The factors in batches of one shape and device, which are computed together."""
    batches: dict[tuple[Any, ...], list[Constrained]] = {}
    for factor in factors:
        batches.setdefault((factor.parameter.shape, factor.parameter.device), []).append(factor)
    yield from batches.values()


def _stack(batch: Sequence[Constrained]) -> Tensor:
    """[count, d, r] float64, orthonormal columns."""
    return torch.stack([factor.point() for factor in batch]).to(torch.float64)


def _finite(change: Tensor) -> Tensor:
    if not bool(torch.isfinite(change).all()):
        raise NumericalError(
            "the step of an orthonormal factor is not finite",
            do="use a lower learning rate, or a longer warm-up",
        )
    return change


def _oriented(factor: Constrained, tensor: Tensor) -> Tensor:
    return tensor.mT if factor.rows else tensor


@torch.no_grad()
def _write(batch: Sequence[Constrained], points: Tensor) -> None:
    for factor, point in zip(batch, points, strict=True):
        factor.point().copy_(point)
