from __future__ import annotations

import copy
import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from farss.adapters import export as export_module
from farss.adapters.apply import apply
from farss.adapters.export import export
from farss.adapters.files import load_adapter, save_adapter
from farss.adapters.layers import oriented
from farss.errors import AdapterError, NumericalError, StorageError
from farss.model.ends import Taught
from farss.storage.owned import MARK

SAME = 1e-4
CASES = [
    ("llama", "reference", "spectral"),
    ("llama", "residual", "spectral"),
    ("llama", "reference", "random"),
    ("gpt2", "reference", "spectral"),
    ("qwen2", "reference", "spectral"),
]


@pytest.fixture(params=CASES, ids="-".join)
def trained(request, kit):
    """(untouched base, trained PEFT model, its logits)."""
    layout, base, initialisation = request.param
    model = kit.models[layout]()
    original = copy.deepcopy(model)
    wrapped = apply(model, kit.plan(model, base=base, initialisation=initialisation, scale=0.8), dropout=0.1)
    kit.train(wrapped)
    return original, wrapped, kit.logits(wrapped, kit.tokens())


def test_a_plain_lora_loads_in_stock_peft_on_the_untouched_base(trained, kit, tmp_path):
    base, wrapped, expected = trained
    report = export(wrapped, tmp_path / "out", to="peft")
    loaded = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "out")
    assert (expected - kit.logits(base, kit.tokens())).abs().max() > 1e-2
    torch.testing.assert_close(kit.logits(loaded, kit.tokens()), expected, atol=SAME, rtol=0)
    assert report.max_logit_difference <= report.tolerance == SAME
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {MARK, "adapter_config.json", "adapter_model.safetensors"}


def test_the_trained_model_is_not_changed_by_exporting(trained, kit, tmp_path):
    _, wrapped, expected = trained
    kept = {name: tensor.clone() for name, tensor in wrapped.state_dict().items()}
    wrapped.train()
    for form in ("peft", "portable", "merged"):
        export(wrapped, tmp_path / form, to=form)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in wrapped.state_dict().items())
    assert wrapped.training
    assert torch.equal(kit.logits(wrapped, kit.tokens()), expected)


def test_merged_weights_load_as_an_ordinary_model(trained, kit, tmp_path):
    base, wrapped, expected = trained
    report = export(wrapped, tmp_path / "out", to="merged")
    loaded = type(base).from_pretrained(tmp_path / "out")
    torch.testing.assert_close(kit.logits(loaded, kit.tokens()), expected, atol=SAME, rtol=0)
    assert report.rank is None and report.max_logit_difference <= SAME


def test_the_portable_form_survives_a_loader_with_one_scale(trained, kit, tmp_path):
    base, wrapped, expected = trained
    report = export(wrapped, tmp_path / "out", to="portable")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == report.rank
    assert "rank_pattern" not in config and "alpha_pattern" not in config
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    served = copy.deepcopy(base)
    for key in [key for key in tensors if ".lora_A." in key]:
        down, up = tensors[key], tensors[key.replace("lora_A", "lora_B")]
        assert down.shape[0] == up.shape[1] == config["r"]
        module = served.get_submodule(key.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
        module.weight.data += oriented(module, config["lora_alpha"] / config["r"] * up @ down)
    torch.testing.assert_close(kit.logits(served, kit.tokens()), expected, atol=SAME, rtol=0)


def test_recompression_reports_its_error(trained, kit, tmp_path):
    _, wrapped, _ = trained
    coarse = export(wrapped, tmp_path / "coarse", to="portable", rank=1)
    exact = export(wrapped, tmp_path / "exact", to="portable", rank=8)
    assert coarse.rank == 1 and coarse.tolerance is None and 0 < coarse.recompression_error < 1
    assert coarse.max_logit_difference > SAME
    assert exact.tolerance == SAME and exact.recompression_error < 1e-6


@pytest.mark.parametrize(("layout", "base"), [("llama", "reference"), ("llama", "residual"), ("gpt2", "reference")])
def test_the_residual_form_is_an_adapter_beside_its_base(kit, tmp_path, layout, base):
    model = kit.models[layout]()
    wrapped = apply(model, kit.plan(model, base=base))
    kit.train(wrapped)
    report = export(wrapped, tmp_path / "out", to="residual")
    loaded = PeftModel.from_pretrained(
        type(wrapped.get_base_model()).from_pretrained(tmp_path / "out" / "base"), tmp_path / "out"
    )
    torch.testing.assert_close(kit.logits(loaded, kit.tokens()), kit.logits(wrapped, kit.tokens()), atol=SAME, rtol=0)
    assert report.rank == 4


def test_a_random_start_has_rank_r_and_no_residual_base(llama, kit, tmp_path):
    wrapped = apply(llama, kit.plan(llama, initialisation="random"))
    assert export(wrapped, tmp_path / "peft").rank == 4
    with pytest.raises(AdapterError, match="starts from zero"):
        export(wrapped, tmp_path / "residual", to="residual")
    assert not (tmp_path / "residual").exists()


def test_a_saved_folder_exports_like_the_model(trained, kit, tmp_path):
    base, wrapped, expected = trained
    save_adapter(wrapped, tmp_path / "adapter")
    kept = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    export(tmp_path / "adapter", tmp_path / "out", base=base)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in base.state_dict().items())
    loaded = load_adapter(copy.deepcopy(base), tmp_path / "out")
    torch.testing.assert_close(kit.logits(loaded, kit.tokens()), expected, atol=SAME, rtol=0)


def test_an_exported_adapter_knows_its_base(llama, kit, tmp_path):
    other = copy.deepcopy(llama)
    export(apply(llama, kit.plan(llama)), tmp_path / "out")
    with torch.no_grad():
        other.model.norm.weight += 1
    with pytest.raises(AdapterError, match="another base"):
        load_adapter(other, tmp_path / "out")


def test_two_adapters_live_side_by_side(llama, kit, tmp_path):
    base, expected = copy.deepcopy(llama), {}
    for name, low in (("first", False), ("second", True)):
        wrapped = apply(copy.deepcopy(base), kit.plan(base, low=low), dropout=0.1)
        kit.train(wrapped)
        expected[name] = kit.logits(wrapped, kit.tokens())
        export(wrapped, tmp_path / name)
    both = PeftModel.from_pretrained(base, tmp_path / "first", adapter_name="first")
    both.load_adapter(tmp_path / "second", "second")
    for name in ("second", "first", "second"):
        both.set_adapter(name)
        torch.testing.assert_close(kit.logits(both, kit.tokens()), expected[name], atol=SAME, rtol=0)


@pytest.mark.parametrize("form", ["peft", "portable", "merged", "residual"])
def test_files_that_do_not_reproduce_the_model_are_not_kept(llama, kit, tmp_path, form):
    other = copy.deepcopy(llama)
    with torch.no_grad():
        other.model.norm.weight += 1
    wrapped = apply(llama, kit.plan(llama))
    with pytest.raises(NumericalError, match="do not reproduce"):
        export(wrapped, tmp_path / "out", to=form, base=other)
    assert not (tmp_path / "out").exists() and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["peft", "portable", "merged"])
def test_half_precision_bases_export_within_their_rounding(llama, kit, tmp_path, form):
    llama.to(torch.bfloat16)
    wrapped = apply(llama, kit.plan(llama))
    kit.train(wrapped)
    report = export(wrapped, tmp_path / "out", to=form)
    assert report.max_logit_difference <= report.tolerance < 0.2


def test_a_wrong_scale_is_caught_even_where_rounding_would_hide_it(llama, kit, tmp_path, monkeypatch):
    wrapped = apply(llama.to(torch.bfloat16), kit.plan(llama))
    kit.train(wrapped, steps=1, rate=1e-3)
    right = export_module.RankAndScale
    monkeypatch.setattr(export_module, "RankAndScale", lambda rank, scale: right(rank, 1.01 * scale))
    with pytest.raises(NumericalError, match="updates within"):
        export(wrapped, tmp_path / "out", to="peft")


def test_a_filled_folder_is_not_overwritten(llama, kit, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match="not empty"):
        export(apply(llama, kit.plan(llama)), tmp_path)


def test_requests_that_make_no_sense_are_refused(llama, kit, tmp_path):
    wrapped = apply(copy.deepcopy(llama), kit.plan(llama))
    for arguments in ({"to": "gguf"}, {"to": "peft", "rank": 4}, {"to": "portable", "rank": 0}):
        with pytest.raises(AdapterError):
            export(wrapped, tmp_path / "out", **arguments)
    with pytest.raises(AdapterError, match="no adapter"):
        export(llama, tmp_path / "out")
    with pytest.raises(AdapterError, match="base model"):
        export(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("form", ["peft", "portable", "merged", "residual"])
def test_what_is_exported_names_the_ends_that_were_taught(llama, kit, tmp_path, form):
    wrapped = apply(llama, kit.plan(llama))
    before = wrapped.get_base_model().generation_config.eos_token_id
    export(wrapped, tmp_path / "out", to=form, taught=Taught((5, 9)))
    (written,) = (tmp_path / "out").rglob("generation_config.json")
    found = json.loads(written.read_text(encoding="utf-8"))["eos_token_id"]
    assert found == [*(before if isinstance(before, list) else [] if before is None else [before]), 5, 9]
    assert wrapped.get_base_model().generation_config.eos_token_id == before
