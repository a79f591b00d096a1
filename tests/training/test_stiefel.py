"""Orthonormal factors under training: where they stay, what a step does, and that an interruption changes nothing."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from farss.adapters.apply import DEFAULT, apply
from farss.adapters.gated import Constrained, constrained_factors
from farss.adapters.layers import lora_layers
from farss.config import FarssConfig
from farss.errors import AdapterError, NumericalError
from farss.maths import stiefel
from farss.methods.fora import aid as home
from farss.methods.fora.aid import hold_factors_
from farss.methods.fora.settings import ForaConfig
from farss.model.plan import Plan, TargetPlan
from farss.model.sources import fingerprint
from farss.training.sft import train

from .conftest import largest_difference, weights

ORTHONORMAL = 1e-6
WAYS = [
    {"retraction": "polar"},
    {"retraction": "qr"},
    {"optimizer": "cayley_adam"},
    {"factor": "A"},
    {"factor": "A", "optimizer": "cayley_adam"},
]


@pytest.fixture(params=WAYS, ids=str)
def fora(request) -> ForaConfig:
    return ForaConfig(**request.param)


def constrained_model(model, fora=None, dropout: float = 0.0, seed: int = 0):
    """The model with FoRA adapters of rank 3 on the up and down maps of all layers."""
    rows = []
    for layer in range(3):
        for kind, shape in (("up_proj", (64, 32)), ("down_proj", (32, 64))):
            rows.append(TargetPlan(f"model.layers.{layer}.mlp.{kind}", layer, "deep", shape, 3, 2.0))
    settings = FarssConfig(own=(fora or ForaConfig(),)).to_mapping()
    plan = Plan("fora", "constrained", "reference", fingerprint(model), settings, tuple(rows))
    return apply(model, plan, dropout=dropout, seed=seed)


def error(model) -> float:
    return max(stiefel.orthogonality_error(part.point()) for part in constrained_factors(model).values())


def points(model) -> dict[str, torch.Tensor]:
    return {name: part.point().clone() for name, part in constrained_factors(model).items()}


class Product(nn.Module):
    """`g B A` alone, standing for an adapted model: fits a fixed matrix, fast enough for a thousand steps."""

    def __init__(self, rows: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        draws = [torch.randn(24, 4, generator=generator), torch.randn(4, 16, generator=generator)]
        self.goal = torch.randn(24, 16, generator=generator)
        if rows:
            draws[1] = stiefel.orthonormal(draws[1].T).T
        else:
            draws[0] = stiefel.orthonormal(draws[0])
        self.up, self.down = nn.Parameter(draws[0]), nn.Parameter(draws[1].contiguous())
        self.gate = nn.Parameter(torch.zeros(1, 1))
        self.held = Constrained(self.down if rows else self.up, rows)

    def loss(self, part: slice) -> torch.Tensor:
        return (self.goal - self.gate * self.up @ self.down)[part].square().sum() / 24


@pytest.fixture
def product(fora, monkeypatch):
    """The toy model, known to `hold_factors_`."""
    model = Product(fora.factor == "A")
    monkeypatch.setattr(home, "constrained_factors", lambda model: {"only": model.held})
    monkeypatch.setattr(home, "training_settings", lambda model: fora)
    return model


MAKERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=2e-2, weight_decay=0.1),
    "sgd": lambda p: torch.optim.SGD(p, lr=2e-2, momentum=0.9),
}


@pytest.mark.parametrize("maker", MAKERS)
def test_a_thousand_steps_stay_on_the_manifold_and_descend(product, maker):
    optimizer = MAKERS[maker](list(product.parameters()))
    hold_factors_(product, optimizer)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 100) * (1 - step / 1200))
    start = product.loss(slice(None)).item()
    for _ in range(1000):
        for part in (slice(0, 12), slice(12, 24)):  # two micro-batches
            product.loss(part).backward()
        nn.utils.clip_grad_norm_(product.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    assert stiefel.orthogonality_error(product.held.point()) < ORTHONORMAL
    best = torch.linalg.svdvals(product.goal)[4:].square().sum().item() / 24
    assert best <= product.loss(slice(None)).item() < best + 0.15 * (start - best)


def test_without_the_hook_the_factor_leaves_the_manifold(product):
    optimizer = MAKERS["adamw"](list(product.parameters()))
    for _ in range(50):
        optimizer.zero_grad()
        product.loss(slice(None)).backward()
        optimizer.step()
    assert stiefel.orthogonality_error(product.held.point()) > 1e-2


def test_a_step_is_the_projected_and_retracted_step_of_the_optimiser():
    generator = torch.Generator().manual_seed(0)
    start = stiefel.orthonormal(torch.randn(8, 3, generator=generator, dtype=torch.float64))
    gradient = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    parameter = nn.Parameter(start.clone())
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    steps = home._ProjectedSteps([Constrained(parameter, rows=False)], "polar")
    optimizer.register_step_pre_hook(steps.before)
    optimizer.register_step_post_hook(steps.after)
    parameter.grad = gradient
    optimizer.step()
    expected = stiefel.retract(start, -0.1 * stiefel.tangent(start, gradient))
    torch.testing.assert_close(parameter.detach(), expected, atol=1e-14, rtol=0)


def test_cayley_adam_is_its_definition():
    """Three steps against the algorithm with dense matrices, as printed."""
    generator = torch.Generator().manual_seed(0)
    x = stiefel.orthonormal(torch.randn(6, 2, generator=generator, dtype=torch.float64))
    gradients = torch.randn(3, 6, 2, generator=generator, dtype=torch.float64)
    parameter = nn.Parameter(x.clone())
    optimizer = torch.optim.AdamW([parameter], lr=0.5)
    steps = home._CayleyAdamSteps([Constrained(parameter, rows=False)])
    optimizer.register_step_pre_hook(steps.before)
    optimizer.register_step_post_hook(steps.after)
    m, v, identity = torch.zeros_like(x), 0.0, torch.eye(6, dtype=torch.float64)
    for step, gradient in enumerate(gradients, 1):
        parameter.grad = gradient
        optimizer.step()
        assert parameter.grad is gradient
        m = 0.9 * m + 0.1 * gradient
        v = 0.99 * v + 0.01 * gradient.square().sum()
        size = (v / (1 - 0.99**step)).sqrt() + 1e-8
        direction = m / (1 - 0.9**step) / size
        inward = direction - x @ (x.T @ direction) / 2
        turn = inward @ x.T - x @ inward.T
        a = min(0.5, 1 / turn.norm())
        x = torch.linalg.solve(identity + a / 2 * turn, (identity - a / 2 * turn) @ x)
        m = turn @ x * size * (1 - 0.9**step)
        torch.testing.assert_close(parameter.detach(), x, atol=1e-12, rtol=0)
        torch.testing.assert_close(optimizer.state[parameter]["m"], m, atol=1e-12, rtol=0)


def test_training_lowers_the_loss_on_the_manifold(tiny_llama, tiny_tokenizer, rows, settings, fora):
    model = constrained_model(tiny_llama, dataclasses.replace(fora, rate=1.0))
    frozen, before = weights(model, trainable=False), points(model)
    # All rows in every step, so that its losses can be compared.
    config = settings(epochs=10.0, batch_size=len(rows), weight_decay=0.1)
    report = train(model, tiny_tokenizer, rows, config, None)
    losses = [loss for _, loss in report.curve[2:]]
    assert losses == sorted(losses, reverse=True) and losses[-1] < report.curve[0][1] - 0.01
    assert error(model) < ORTHONORMAL
    assert largest_difference(frozen, weights(model, trainable=False)) == 0.0
    assert largest_difference(before, points(model)) > 1e-3


def test_the_first_step_moves_the_gates_alone(tiny_llama, tiny_tokenizer, rows, settings, fora):
    model = constrained_model(tiny_llama, fora)
    before = weights(model, trainable=True)
    one = settings(epochs=1.0, batch_size=len(rows), schedule="constant", warmup_ratio=0.0)
    train(model, tiny_tokenizer, rows, one, None)
    for name, value in weights(model, trainable=True).items():
        moved = float((value - before[name]).abs().max())
        assert moved == pytest.approx(1e-2, rel=1e-3) if name.endswith("gate") else moved < ORTHONORMAL, name


def test_micro_batches_do_not_change_the_result(tiny_llama, tiny_tokenizer, rows, settings, fora):
    results = []
    for micro in (4, 1):
        model = constrained_model(tiny_llama, fora)
        train(model, tiny_tokenizer, rows, settings(micro_batch_size=micro), None)
        results.append(weights(model, trainable=True))
        tiny_llama = model.unload()
    assert largest_difference(*results) < 1e-4


class Interrupted(Exception):
    """Stands for a killed process."""


def test_a_resumed_training_ends_where_an_uninterrupted_one_does(
    tiny_llama, tiny_tokenizer, rows, settings, fora, tmp_path
):
    config = settings(save_steps=2, micro_batch_size=2)

    def die(step: int, total: int, loss: float) -> None:
        if step == 5:
            raise Interrupted

    model = constrained_model(tiny_llama, fora, dropout=0.1)
    train(model, tiny_tokenizer, rows, config, tmp_path / "whole")
    expected = weights(model, trainable=True)
    model = constrained_model(model.unload(), fora, dropout=0.1)
    with pytest.raises(Interrupted):
        train(model, tiny_tokenizer, rows, config, tmp_path / "broken", progress=die)
    model = constrained_model(model.unload(), fora, dropout=0.1)
    steps = []
    train(model, tiny_tokenizer, rows, config, tmp_path / "broken", progress=lambda step, *_: steps.append(step))
    assert steps == [5, 6, 7, 8]
    assert largest_difference(expected, weights(model, trainable=True)) == 0.0
    assert error(model) < ORTHONORMAL


def test_bfloat16_training_keeps_float32_factors_orthonormal(tiny_llama, tiny_tokenizer, rows, settings, fora):
    model = constrained_model(tiny_llama.to(torch.bfloat16), fora)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)  # as after a careless cast of everything
    assert error(model) > 1e-4
    train(model, tiny_tokenizer, rows, settings(precision="bfloat16"), None)
    assert {part.parameter.dtype for part in constrained_factors(model).values()} == {torch.float32}
    assert error(model) < ORTHONORMAL


@pytest.mark.parametrize(("fora", "ratio"), [({}, 1.0), ({"optimizer": "cayley_adam"}, 5.0), ({"rate": 0.5}, 0.5)])
def test_factors_have_a_group_of_their_own_without_decay(tiny_llama, fora, ratio):
    model = constrained_model(tiny_llama, ForaConfig(**fora))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.1)
    hold_factors_(model, optimizer)
    rest, own = optimizer.param_groups
    assert {id(p) for p in own["params"]} == {id(c.parameter) for c in constrained_factors(model).values()}
    assert len(rest["params"]) + len(own["params"]) == len(trained)
    assert (own["lr"], own["weight_decay"]) == (pytest.approx(ratio * 1e-3), 0.0)
    assert (rest["lr"], rest["weight_decay"]) == (1e-3, 0.1)


def test_an_optimiser_that_lacks_the_factors_is_refused(tiny_llama):
    model = constrained_model(tiny_llama)
    gates = [layer.lora_A[DEFAULT].gate for layer in lora_layers(model).values()]
    with pytest.raises(AdapterError, match="does not train"):
        hold_factors_(model, torch.optim.AdamW(gates))


def test_other_models_are_left_alone(tiny_llama):
    optimizer = torch.optim.AdamW(tiny_llama.parameters())
    hold_factors_(tiny_llama, optimizer)
    assert len(optimizer.param_groups) == 1 and not optimizer._optimizer_step_post_hooks


def test_a_step_that_is_not_finite_is_named(product):
    optimizer = MAKERS["adamw"](list(product.parameters()))
    hold_factors_(product, optimizer)
    product.held.parameter.grad = torch.full_like(product.held.parameter, float("nan"))
    with pytest.raises(NumericalError, match="not finite"):
        optimizer.step()
