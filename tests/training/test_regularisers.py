"""Regularisers: their values, PEFT's, and that a step holds each once, however it is split."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from farss.adapters.apply import apply
from farss.adapters.layers import DEFAULT, lora_layers
from farss.adapters.provenance import remember
from farss.config import FarssConfig
from farss.errors import AdapterError
from farss.maths.spectrum import decompose
from farss.maths.stiefel import row_skewness
from farss.methods import Evidence, get_method
from farss.methods.aids import aids_of
from farss.methods.kasa.aid import regularisers
from farss.methods.kasa.settings import KasaConfig
from farss.model.sources import fingerprint
from farss.model.targets import find_targets, weight_matrix
from farss.training.sft import train

from .conftest import added_loss, largest_difference, weights

STRONG = KasaConfig(beta=0.5, gamma=0.3)


def adapted(model, settings: KasaConfig = STRONG):
    evidence = Evidence(fingerprint(model), lambda target: decompose(weight_matrix(target)))
    return apply(model, get_method("kasa").plan(find_targets(model), evidence, FarssConfig(rank=3, own=(settings,))))


def test_it_is_zero_for_orthonormal_factors_and_no_diagonal():
    up, down = torch.linalg.qr(torch.randn(9, 3))[0], torch.linalg.qr(torch.randn(7, 3))[0].T
    assert float(row_skewness(down)) < 1e-6 < float(row_skewness(2 * down))
    parts = [(up, torch.zeros(3, 1), down)] * 2
    assert float(regularisers(parts, KasaConfig(beta=1.0, gamma=1.0))) < 1e-5
    parts = [(up, torch.ones(3, 1), down)] * 2
    assert float(regularisers(parts, KasaConfig(beta=2.0, gamma=0.0))) == pytest.approx(6.0)


@pytest.mark.parametrize("normalise", ["modules", "sum"])
def test_it_is_pefts_after_the_normalisation(tiny_llama, normalise):
    from peft import KasaConfig as TheirConfig
    from peft import LoraConfig, get_peft_model

    ours = adapted(copy.deepcopy(tiny_llama), dataclasses.replace(STRONG, normalise=normalise))
    names = list(lora_layers(ours))
    config = LoraConfig(r=3, target_modules=names, kasa_config=TheirConfig(beta=STRONG.beta, gamma=STRONG.gamma))
    theirs = get_peft_model(tiny_llama, config)
    for name, layer in lora_layers(ours).items():
        layer.lora_B[DEFAULT].factor.data.normal_()
        twin = lora_layers(theirs)[name]
        twin.lora_A[DEFAULT].weight.data.copy_(layer.lora_A[DEFAULT].factor)
        twin.lora_B[DEFAULT].weight.data.copy_(layer.lora_B[DEFAULT].factor)
        twin.lora_diag[DEFAULT].data.copy_(layer.lora_A[DEFAULT].gate.flatten())
    expected = float(theirs.base_model._get_kasa_loss().detach()) / (len(names) if normalise == "modules" else 1)
    assert float(added_loss(ours).detach()) == pytest.approx(expected, rel=1e-5)


def one_step(model, tokenizer, rows, settings, **changes):
    report = train(model, tokenizer, rows[:8], settings(batch_size=8, epochs=1.0, **changes), None)
    assert report.steps == 1
    return weights(model, trainable=True), report.curve[0][1]


@pytest.mark.parametrize("micro", [8, 2, 1])
def test_a_step_holds_it_once_however_it_is_split(tiny_llama, tiny_tokenizer, rows, settings, monkeypatch, micro):
    found = {}

    def gradients(model, micro_batch_size):
        def watch(self, *args, **kwargs):
            found.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})

        with monkeypatch.context() as patch:
            patch.setattr(torch.optim.AdamW, "step", watch)
            return one_step(model, tiny_tokenizer, rows, settings, micro_batch_size=micro_batch_size, max_grad_norm=0.0)

    _, loss = gradients(adapted(copy.deepcopy(tiny_llama)), micro)
    regularised = dict(found)
    plain = adapted(copy.deepcopy(tiny_llama), KasaConfig(beta=0.0, gamma=0.0))
    _, without = gradients(plain, 8)
    fresh = adapted(copy.deepcopy(tiny_llama))
    added_loss(fresh).backward()
    assert loss == pytest.approx(without, rel=1e-5)  # the reported loss is the task's
    for name, parameter in fresh.named_parameters():
        if parameter.requires_grad:
            share = regularised[name] - found[name]
            torch.testing.assert_close(share, parameter.grad, atol=1e-5, rtol=1e-4)


def test_training_shrinks_what_is_regularised(tiny_llama, tiny_tokenizer, rows, settings):
    values = {}
    for beta in (0.0, 5.0):
        model = adapted(copy.deepcopy(tiny_llama), KasaConfig(beta=beta, gamma=0.0))
        train(model, tiny_tokenizer, rows, settings(), None)
        values[beta] = sum(
            float(layer.lora_A[DEFAULT].gate.detach().square().sum()) for layer in lora_layers(model).values()
        )
    assert values[5.0] < values[0.0]


def test_an_interrupted_training_goes_on_as_it_was(tiny_llama, tiny_tokenizer, rows, settings, tmp_path):
    whole = adapted(copy.deepcopy(tiny_llama))
    frozen = weights(whole, trainable=False)
    train(whole, tiny_tokenizer, rows, settings(save_steps=2), tmp_path / "whole")
    assert largest_difference(weights(whole, trainable=False), frozen) == 0.0

    def stop(step: int, total: int, loss: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped = adapted(copy.deepcopy(tiny_llama))
        train(stopped, tiny_tokenizer, rows, settings(save_steps=2), tmp_path / "parts", progress=stop)
    again = adapted(copy.deepcopy(tiny_llama))
    train(again, tiny_tokenizer, rows, settings(save_steps=2), tmp_path / "parts")
    assert largest_difference(weights(again, trainable=True), weights(whole, trainable=True)) == 0.0


def test_an_adapter_whose_plan_is_not_known_is_refused(tiny_llama, with_lora):
    model = adapted(copy.deepcopy(tiny_llama))
    remember(model, None)
    with pytest.raises(AdapterError, match="how strongly"):
        aids_of(model)
    assert aids_of(tiny_llama) == [] and aids_of(with_lora(tiny_llama)) == []
