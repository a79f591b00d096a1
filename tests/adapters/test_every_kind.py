"""Adapters of every kind that PEFT makes: measured as PEFT has them, the base as before, none that loads nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import MixtralConfig, MixtralForCausalLM

from farss.adapters.export import export
from farss.adapters.files import load_adapter
from farss.adapters.switching import adapted
from farss.errors import AdapterError
from farss.experiment.subjects import any_adapter
from farss.model.sources import fingerprint

SAME = 2e-5
TARGETS = ["q_proj", "v_proj", "down_proj"]


def lora(**settings: Any) -> Callable[[], LoraConfig]:
    return lambda: LoraConfig(**({"r": 4, "lora_alpha": 8, "target_modules": TARGETS} | settings))


PRODUCTS = {
    "lora": lora(),
    "rslora": lora(use_rslora=True),
    "patterns": lora(rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 3}),
    "gaussian": lora(init_lora_weights="gaussian"),
    "orthogonal": lora(init_lora_weights="orthogonal"),
    "pissa": lora(init_lora_weights="pissa"),
    "pissa rslora": lora(init_lora_weights="pissa", use_rslora=True, rank_pattern={"q_proj": 2}),
    "olora": lora(init_lora_weights="olora"),
}
LORAS = PRODUCTS | {
    "dora": lora(use_dora=True),
    "modules to save": lora(modules_to_save=["lm_head"]),
    "token rows": lora(trainable_token_indices=[1, 5]),
    "biases": lora(bias="all"),
    "biases of lora": lora(bias="lora_only"),
    "lora bias": lora(lora_bias=True, target_modules=["q_proj", "v_proj"]),
    "embeddings": lora(target_modules=["q_proj", "embed_tokens", "lm_head"]),
    "mica": lora(init_lora_weights="mica"),
}


def tuned(kind: str, **settings: Any) -> Callable[[], Any]:
    return lambda: getattr(peft, kind)(**({"target_modules": TARGETS} | settings))


OTHERS = {
    "adalora": tuned("AdaLoraConfig", init_r=4, target_r=2, total_step=10),
    "ia3": tuned("IA3Config", feedforward_modules=["down_proj"]),
    "vera": tuned("VeraConfig", r=4, target_modules=["q_proj"]),
    "vera without its projections": tuned("VeraConfig", r=4, target_modules=["q_proj"], save_projection=False),
    "oft": tuned("OFTConfig", r=0, oft_block_size=4),
    "boft": tuned("BOFTConfig", boft_block_size=4),
    "loha": tuned("LoHaConfig", r=4),
    "lokr": tuned("LoKrConfig", r=4),
    "fourierft": tuned("FourierFTConfig", n_frequency=8),
    "ln tuning": tuned("LNTuningConfig", target_modules=["norm"]),
    "hra": tuned("HRAConfig", r=4),
    "hira": tuned("HiraConfig", r=4),
    "randlora": tuned("RandLoraConfig", r=4),
    "shira": tuned("ShiraConfig", r=4),
    "road": tuned("RoadConfig", variant="road_1", group_size=4),
    "c3a": tuned("C3AConfig", block_size=4),
    "delora": tuned("DeloraConfig", r=4),
    "waveft": tuned("WaveFTConfig", n_frequency=8),
    "vblora": tuned("VBLoRAConfig", r=4, num_vectors=8, vector_length=4, topk=2),
}


def make(kit, folder, config: Any, model=None):
    """(untouched base, PEFT's model with random trained parts) of a configuration, saved in `folder`."""
    model = kit.models["qwen2"]() if model is None else model
    original = copy.deepcopy(model)
    torch.manual_seed(0)
    made = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in made.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    made.eval().save_pretrained(str(folder))
    return original, made


@pytest.mark.case("an adapter leaves the base changed for what is measured after it")
@pytest.mark.parametrize("kind", sorted(LORAS))
def test_a_lora_of_any_kind_is_pefts_own_and_leaves_the_base(kit, tmp_path, kind):
    original, made = make(kit, tmp_path / "adapter", LORAS[kind]())
    ids, base = kit.tokens(), copy.deepcopy(original)
    expected, before = kit.logits(made, ids), kit.logits(original, ids)
    assert (expected - before).abs().max() > 1e-3
    for _ in range(2):
        with adapted(base, tmp_path / "adapter") as model:
            torch.testing.assert_close(kit.logits(model, ids), expected, atol=SAME, rtol=0)
        assert torch.equal(kit.logits(base, ids), before)
    assert fingerprint(base) == fingerprint(original)
    mine, other = base.state_dict(), original.state_dict()
    assert mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)


@pytest.mark.parametrize("kind", sorted(OTHERS))
def test_what_is_no_lora_is_audited_as_pefts_own(kit, tmp_path, kind):
    original, made = make(kit, tmp_path / "adapter", OTHERS[kind]())
    loaded = any_adapter(copy.deepcopy(original), tmp_path / "adapter").eval()
    expected = kit.logits(PeftModel.from_pretrained(copy.deepcopy(original), str(tmp_path / "adapter")), kit.tokens())
    assert torch.equal(kit.logits(loaded, kit.tokens()), expected)
    torch.testing.assert_close(expected, kit.logits(made, kit.tokens()), atol=SAME, rtol=0)


@pytest.mark.case("an adapter that loads nothing is measured as the base")
@pytest.mark.parametrize("kind", sorted(LORAS | OTHERS))
def test_tensors_under_other_names_are_refused(kit, tmp_path, kind):
    original, _ = make(kit, tmp_path / "adapter", (LORAS | OTHERS)[kind]())
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    renamed = {name.replace("base_model.", "base_model.language_model.", 1): part for name, part in tensors.items()}
    save_file(renamed, file)
    with pytest.raises(AdapterError):
        any_adapter(copy.deepcopy(original), tmp_path / "adapter")
    one = sorted(tensors)[0]
    save_file({f"other.{one}" if name == one else name: part for name, part in tensors.items()}, file)
    with pytest.raises(AdapterError):
        any_adapter(copy.deepcopy(original), tmp_path / "adapter")


@pytest.mark.parametrize("start", ["pissa_niter_4", "corda", "loftq", "lora_ga"])
def test_starts_that_cannot_be_made_again_are_refused_before_the_base_is_touched(kit, tmp_path, start):
    original, _ = make(kit, tmp_path / "adapter", LORAS["lora"]())
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace('"init_lora_weights": true', f'"init_lora_weights": "{start}"'))
    base = copy.deepcopy(original)
    with pytest.raises(AdapterError, match="start"):
        load_adapter(base, tmp_path / "adapter")
    assert fingerprint(base) == fingerprint(original)


@pytest.mark.case("what an adapter holds beside its product is lost on export")
@pytest.mark.parametrize("form", ["peft", "portable"])
@pytest.mark.parametrize("kind", sorted(LORAS))
def test_an_export_is_the_adapter_on_the_users_base_or_is_refused(kit, tmp_path, kind, form):
    original, made = make(kit, tmp_path / "adapter", LORAS[kind]())
    loaded = load_adapter(copy.deepcopy(original), tmp_path / "adapter")
    if kind in PRODUCTS or (kind, form) == ("dora", "peft"):
        export(loaded, tmp_path / "out", to=form)
        plain = PeftModel.from_pretrained(copy.deepcopy(original), str(tmp_path / "out"))
        expected = kit.logits(made, kit.tokens())
        torch.testing.assert_close(kit.logits(plain, kit.tokens()), expected, atol=1e-4, rtol=0)
        return
    with pytest.raises(AdapterError):
        export(loaded, tmp_path / "out", to=form)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["peft", "portable", "merged"])
def test_experts_in_one_parameter_are_measured_and_their_export_refused_by_name(kit, tmp_path, form):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    experts = MixtralConfig(vocab_size=64, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, **sizes)
    fused = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    config = LoraConfig(r=4, target_modules=["q_proj"], target_parameters=fused)
    original, made = make(kit, tmp_path / "adapter", config, MixtralForCausalLM(experts).eval())
    base, ids = copy.deepcopy(original), kit.tokens()
    with adapted(base, tmp_path / "adapter") as model:
        torch.testing.assert_close(kit.logits(model, ids), kit.logits(made, ids), atol=SAME, rtol=0)
    assert torch.equal(kit.logits(base, ids), kit.logits(original, ids))
    with pytest.raises(AdapterError, match="target_parameters"):
        export(load_adapter(base, tmp_path / "adapter"), tmp_path / "out", to=form)


def test_an_extended_vocabulary_says_which_rows_are_missing(kit, tmp_path):
    original = kit.models["llama"]()
    larger = copy.deepcopy(original)
    larger.resize_token_embeddings(66)
    make(kit, tmp_path / "adapter", lora(modules_to_save=["embed_tokens", "lm_head"])(), larger)
    with pytest.raises(AdapterError, match="another vocabulary"):
        load_adapter(original, tmp_path / "adapter")
