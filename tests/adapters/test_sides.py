"""The arithmetic of an adapter and what it started from: what it adds, and how exactly."""

from __future__ import annotations

import pytest
import torch

from farss.adapters.apply import apply
from farss.adapters.layers import DEFAULT, lora_layers


@pytest.fixture
def layers(llama, kit):
    """The layers of a pair whose factors have moved by a ten-thousandth of their size, as a few steps move them."""
    model = apply(llama, kit.plan(llama)).eval()
    torch.manual_seed(0)
    for layer in lora_layers(model).values():
        for part in (layer.lora_A, layer.lora_B):
            weight = part[DEFAULT].factor
            weight.data += 1e-4 * weight.detach().abs().mean() * torch.randn_like(weight)
    return lora_layers(model)


def change_of(layer) -> torch.Tensor:
    """`B A - B0 A0` in float64."""
    up, down = layer.lora_B[DEFAULT], layer.lora_A[DEFAULT]
    product = up.factor.detach().double() @ down.factor.detach().double()
    return product - up.start.detach().double() @ down.start.detach().double()


@pytest.mark.parametrize(("autocast", "bound"), [(False, 1e-5), (True, 2e-2)])
def test_a_small_change_is_not_lost_between_rounded_activations(layers, autocast, bound):
    """The difference of two products in bfloat16 would be off by more than itself."""
    for layer in layers.values():
        x = torch.randn(5, layer.in_features)
        if autocast:
            x = x.bfloat16().float()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.no_grad():
            found = layer.lora_B[DEFAULT](layer.lora_A[DEFAULT](x)).double()
        expected = x.double() @ change_of(layer).T
        assert float((found - expected).norm() / expected.norm()) < bound


def test_gradients_are_those_of_the_difference(layers):
    for layer in layers.values():
        up, down = layer.lora_B[DEFAULT].factor, layer.lora_A[DEFAULT].factor
        x = torch.randn(5, layer.in_features, requires_grad=True)
        weights = torch.randn(5, layer.out_features)
        found = torch.autograd.grad((layer.lora_B[DEFAULT](layer.lora_A[DEFAULT](x)) * weights).sum(), (x, up, down))
        frozen = layer.lora_B[DEFAULT].start.detach() @ layer.lora_A[DEFAULT].start.detach()
        expected = torch.autograd.grad(((x @ (up @ down - frozen).T) * weights).sum(), (x, up, down))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
