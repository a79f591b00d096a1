"""Adapters put on one base model and taken off again."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from farss.adapters.apply import apply
from farss.adapters.files import load_adapter, save_adapter
from farss.adapters.switching import adapted
from farss.errors import AdapterError


@pytest.mark.parametrize("base", ["reference", "residual"])
def test_each_adapter_speaks_and_leaves_the_base_to_the_bit(model, kit, tmp_path, base):
    untouched, ids = copy.deepcopy(model), kit.tokens()
    expected = {}
    for name, low in (("a", False), ("b", True)):
        wrapped = apply(copy.deepcopy(model), kit.plan(model, base=base, low=low))
        kit.train(wrapped, steps=2)
        save_adapter(wrapped, tmp_path / name)
        expected[name] = kit.logits(load_adapter(copy.deepcopy(model), tmp_path / name), ids)
    before = kit.logits(untouched, ids)
    assert not torch.equal(expected["a"], expected["b"])
    for name in ("a", "b", "a"):
        with adapted(model, tmp_path / name) as wrapped:
            assert torch.equal(kit.logits(wrapped, ids), expected[name])
        assert torch.equal(kit.logits(model, ids), before)
    mine, other = model.state_dict(), untouched.state_dict()
    assert mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)
    assert [type(m) for m in model.modules()] == [type(m) for m in untouched.modules()]


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"bias": "all"}])
def test_foreign_adapters_too(kit, tmp_path, settings):
    model = kit.models["qwen2"]()
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, **settings)
    foreign = get_peft_model(copy.deepcopy(model), config)
    kit.train(foreign, steps=1)
    foreign.save_pretrained(tmp_path / "foreign")
    untouched, ids = copy.deepcopy(model), kit.tokens()
    for _ in range(2):
        with adapted(model, tmp_path / "foreign") as wrapped:
            assert torch.allclose(kit.logits(wrapped, ids), kit.logits(foreign, ids), atol=1e-5)
        assert torch.equal(kit.logits(model, ids), kit.logits(untouched, ids))
    mine, other = model.state_dict(), untouched.state_dict()
    assert mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)


def test_the_base_comes_back_after_an_error(llama, kit, tmp_path):
    save_adapter(apply(copy.deepcopy(llama), kit.plan(llama, base="residual")), tmp_path / "adapter")
    before = kit.logits(llama, kit.tokens())
    with pytest.raises(RuntimeError, match="in the block"), adapted(llama, tmp_path / "adapter"):
        raise RuntimeError("in the block")
    assert torch.equal(kit.logits(llama, kit.tokens()), before)
    with pytest.raises(AdapterError), adapted(llama, tmp_path / "nothing"):
        pass
    assert torch.equal(kit.logits(llama, kit.tokens()), before)
