"""The exported update keeps its accuracy when a server casts it to bfloat16."""

from __future__ import annotations

import pytest
import torch

from farss.adapters.apply import apply
from farss.adapters.layers import lora_layers
from farss.adapters.trained import trained_updates
from farss.config import FarssConfig
from farss.experiment.initialisation.planning import prepare

STEP = 1e-3


@pytest.fixture
def trained(tiny_llama, monkeypatch, tmp_path):
    monkeypatch.setenv("FARSS_CACHE", str(tmp_path))
    plan = prepare(tiny_llama, (), FarssConfig(rank=8, r_avg=4, r_max=8), ["pissa"]).plans["pissa"]
    model = apply(tiny_llama, plan)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in lora_layers(model).values():
            for part in (layer.lora_A, layer.lora_B):
                weight = part["default"].factor
                weight += STEP * weight.abs().mean() * torch.randn(weight.shape, generator=generator)
    return model


def cast_error(up, down, exact):
    rounded = up.bfloat16().float() @ down.bfloat16().float()
    return float((rounded - exact).norm() / exact.norm())


def test_a_cast_to_bfloat16_costs_a_rounding_not_the_update(trained):
    for name, layer in lora_layers(trained).items():
        update = trained_updates(trained)[name].factors
        a, b = layer.lora_A["default"].factor.detach(), layer.lora_B["default"].factor.detach()
        a0, minus_b0 = layer.lora_A["default"].start.detach(), -layer.lora_B["default"].start.detach()
        exact = b.double() @ a.double() + minus_b0.double() @ a0.double()
        torch.testing.assert_close(update.up.double() @ update.down.double(), exact, atol=1e-8, rtol=1e-4)
        assert cast_error(update.up, update.down, exact.float()) < 0.02
        # The control: the same matrix in its plain form loses the update in the cast.
        assert cast_error(torch.cat([b, minus_b0], 1), torch.cat([a, a0], 0), exact.float()) > 0.5
