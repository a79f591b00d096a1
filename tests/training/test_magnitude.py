"""DoRA under bfloat16 autocast, and resumed."""

from __future__ import annotations

import pytest
import torch

from farss.adapters.apply import apply
from farss.config import FarssConfig
from farss.methods import Evidence, get_method
from farss.model.sources import fingerprint
from farss.model.targets import find_targets
from farss.training.precision import inputs_as_they_come
from farss.training.sft import train

from .conftest import largest_difference, weights


def adapted(model, method: str = "dora"):
    plan = get_method(method).plan(find_targets(model), Evidence(fingerprint(model)), FarssConfig(rank=3))
    return apply(model, plan)


def test_autocast_does_not_round_the_norms(tiny_llama):
    """Norms in bfloat16 would move every row of every weight by up to 0.2 % before the first step."""
    ids = torch.arange(4, 44).reshape(2, 20)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        before = tiny_llama(input_ids=ids).logits
        wrapped = adapted(tiny_llama).train()
        with inputs_as_they_come(wrapped, True):
            assert torch.equal(wrapped(input_ids=ids).logits, before)


def test_training_lowers_the_loss_and_leaves_the_base(tiny_llama, tiny_tokenizer, rows, settings):
    wrapped = adapted(tiny_llama)
    frozen = weights(wrapped, trainable=False)
    report = train(wrapped, tiny_tokenizer, rows, settings(epochs=4.0), None)
    first, last = (sum(loss for _, loss in part) for part in (report.curve[:4], report.curve[-4:]))
    assert last < first
    after = weights(wrapped, trainable=False)
    assert all(torch.equal(after[name], frozen[name]) for name in frozen)


def test_an_interrupted_training_goes_on_as_it_was(tiny_llama, tiny_tokenizer, rows, settings, tmp_path, monkeypatch):
    import copy

    whole = adapted(copy.deepcopy(tiny_llama))
    train(whole, tiny_tokenizer, rows, settings(save_steps=2), tmp_path / "whole")
    stopped = adapted(copy.deepcopy(tiny_llama))

    def stop(step: int, total: int, loss: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(stopped, tiny_tokenizer, rows, settings(save_steps=2), tmp_path / "parts", progress=stop)
    again = adapted(copy.deepcopy(tiny_llama))
    train(again, tiny_tokenizer, rows, settings(save_steps=2), tmp_path / "parts")
    assert largest_difference(weights(again, trainable=True), weights(whole, trainable=True)) == 0.0
