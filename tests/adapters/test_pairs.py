"""The arithmetic of a pair of adapters: what it adds, how exactly, and that its frozen half costs no pass."""

from __future__ import annotations

import copy

import pytest
import torch

from farss.adapters.apply import apply
from farss.adapters.layers import DEFAULT, REFERENCE, lora_layers
from farss.adapters.pairs import Nothing


@pytest.fixture
def layers(llama, kit):
    """The layers of a pair whose factors have moved by a ten-thousandth of their size, as a few steps move them."""
    model = apply(llama, kit.plan(llama)).eval()
    torch.manual_seed(0)
    for layer in lora_layers(model).values():
        for part in (layer.lora_A, layer.lora_B):
            weight = part[DEFAULT].weight
            weight.data += 1e-4 * weight.detach().abs().mean() * torch.randn_like(weight)
    return lora_layers(model)


def change_of(layer) -> torch.Tensor:
    """`B A - B0 A0` in float64."""
    parts = ((layer.lora_B[name].weight, layer.lora_A[name].weight) for name in (DEFAULT, REFERENCE))
    return sum(up.detach().double() @ down.detach().double() for up, down in parts)


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
        up, down = layer.lora_B[DEFAULT].weight, layer.lora_A[DEFAULT].weight
        x = torch.randn(5, layer.in_features, requires_grad=True)
        weights = torch.randn(5, layer.out_features)
        found = torch.autograd.grad((layer.lora_B[DEFAULT](layer.lora_A[DEFAULT](x)) * weights).sum(), (x, up, down))
        frozen = layer.lora_B[REFERENCE].weight.detach() @ layer.lora_A[REFERENCE].weight.detach()
        expected = torch.autograd.grad(((x @ (up @ down + frozen).T) * weights).sum(), (x, up, down))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_nothing_is_added_without_a_pass():
    x = torch.randn(3)
    y = x
    y += Nothing() * 2.0
    assert y is x and (x + Nothing()) is x and (x + Nothing().to(torch.float16) * torch.tensor(2.0)) is x
    with pytest.raises(TypeError):
        x - Nothing()  # type: ignore[operator]


def test_a_compiled_model_gives_the_same(llama, kit, layers):
    """Traced, not translated: no compiler is needed."""
    ids, model = kit.tokens(), copy.deepcopy(llama)
    expected = kit.logits(model, ids)
    torch.testing.assert_close(kit.logits(torch.compile(model, backend="eager"), ids), expected, atol=1e-6, rtol=0)
