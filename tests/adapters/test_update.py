from __future__ import annotations

import copy

import pytest
import torch

from farss.adapters.apply import apply
from farss.adapters.update import scaled_update
from farss.errors import AdapterError

SAME = 1e-5
FORMS = [("reference", "spectral"), ("residual", "spectral"), ("reference", "random")]


def tensors(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(("base", "initialisation"), FORMS)
def test_the_ends_are_the_base_and_the_trained_model(model, kit, base, initialisation):
    ids, before = kit.tokens(), kit.logits(model, kit.tokens())
    wrapped = apply(model, kit.plan(model, base=base, initialisation=initialisation), dropout=0.1)
    kit.train(wrapped)
    trained, kept = kit.logits(wrapped, ids), tensors(wrapped)
    assert (trained - before).abs().max() > 1e-2
    with scaled_update(wrapped, 0.0):
        torch.testing.assert_close(kit.logits(wrapped, ids), before, atol=SAME, rtol=0)
    with scaled_update(wrapped, 1.0):
        assert torch.equal(kit.logits(wrapped, ids), trained)
    with scaled_update(wrapped, 1 - 1e-9):
        torch.testing.assert_close(kit.logits(wrapped, ids), trained, atol=SAME, rtol=0)
    assert torch.equal(kit.logits(wrapped, ids), trained)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in wrapped.state_dict().items())


@pytest.mark.parametrize(("base", "initialisation"), FORMS)
@pytest.mark.parametrize("t", [-0.5, 0.3, 1.25])
def test_every_form_scales_the_same_weights(llama, kit, base, initialisation, t):
    start = copy.deepcopy(llama)
    wrapped = apply(llama, kit.plan(llama, base=base, initialisation=initialisation))
    kit.train(wrapped)
    merged = copy.deepcopy(wrapped).merge_and_unload()
    with scaled_update(wrapped, t), scaled_update(merged, t, start.state_dict()):
        torch.testing.assert_close(
            kit.logits(wrapped, kit.tokens()), kit.logits(merged, kit.tokens()), atol=1e-4, rtol=0
        )


def test_full_fine_tuning_is_restored_bit_for_bit(llama, kit):
    ids, before = kit.tokens(), kit.logits(llama, kit.tokens())
    initial = tensors(llama)
    kit.train(llama)
    trained, kept = kit.logits(llama, ids), tensors(llama)
    with scaled_update(llama, 0.0, initial):
        assert torch.equal(kit.logits(llama, ids), before)
    with pytest.raises(RuntimeError, match="inside"), scaled_update(llama, 0.5, initial):
        raise RuntimeError("inside")
    assert torch.equal(kit.logits(llama, ids), trained)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in llama.state_dict().items())


def test_a_model_without_adapter_or_initial_weights_is_refused(llama):
    with pytest.raises(AdapterError, match="initial weights"), scaled_update(llama, 0.5):
        pass
