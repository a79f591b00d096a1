"""TRL's preference trainers: the reference is the policy at its start, for every method, by the losses they log."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerFast

from farss.adapters.apply import apply
from farss.adapters.files import load_adapter
from farss.config import FarssConfig
from farss.errors import AdapterError
from farss.experiment.initialisation.planning import plan as make_plan
from farss.methods import METHODS
from farss.model.calibration import Batch

trl = pytest.importorskip("trl")
SAME = 1e-5
ADAPTED = sorted(name for name in METHODS if METHODS[name].trains == "adapter")
COPIED = [name for name in ADAPTED if name != "adalora"]
PAIRED = [{"prompt": f"w{i} w{i + 1}", "chosen": f" w{i + 2}", "rejected": f" w{i + 3} w{i}"} for i in range(4)]


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<pad>", "<eos>", "<unk>", *(f"w{i}" for i in range(61))]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def policy(kit, method: str, base: str = "reference"):
    """A tiny model with the adapter of a method before training, and its outputs."""
    model, ids = kit.models["llama"](), kit.tokens(1, (6, 16))
    batches = [Batch(ids, torch.ones_like(ids), ids)]
    plan = make_plan(model, batches, FarssConfig(rank=4, alpha=4.0, base=base), method=method, knowledge=batches)
    wrapped = apply(model, plan)
    return wrapped, kit.logits(wrapped, kit.tokens())


def settings(kind, folder, **more):
    common = {"max_steps": 1, "logging_steps": 1, "report_to": "none", "use_cpu": True, "bf16": False, "seed": 1}
    quiet = {"disable_tqdm": True, "save_strategy": "no", "gradient_checkpointing": False}
    return kind(output_dir=str(folder), per_device_train_batch_size=4, **(common | quiet | more))


def logged(trainer, *keys: str) -> list[float]:
    """What the first step logged."""
    trainer.train()
    return [next(entry[key] for entry in trainer.state.log_history if key in entry) for key in keys]


@pytest.mark.case("the reference of a preference training is not the model it started from")
@pytest.mark.parametrize("method", COPIED)
def test_the_first_loss_of_dpo_is_ln_2_and_what_is_merged_in_place_is_the_policy(kit, tokenizer, tmp_path, method):
    wrapped, before = policy(kit, method)
    arguments = settings(trl.DPOConfig, tmp_path, learning_rate=1e-8)
    rows = Dataset.from_list(PAIRED)
    trainer = trl.DPOTrainer(model=wrapped, args=arguments, train_dataset=rows, processing_class=tokenizer)
    assert {"default", "ref"} <= set(wrapped.peft_config)
    assert logged(trainer, "loss") == pytest.approx([math.log(2)], abs=SAME)
    merged = copy.deepcopy(wrapped)
    merged.merge_adapter()  # what TRL does before it gives weights to another engine
    torch.testing.assert_close(kit.logits(merged, kit.tokens()), before, atol=1e-4, rtol=0)
    merged.unmerge_adapter()
    torch.testing.assert_close(kit.logits(merged, kit.tokens()), before, atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", ["farss", "lora-null-v2"])
def test_the_residual_form_is_its_own_reference_too(kit, tokenizer, tmp_path, method):
    wrapped, _ = policy(kit, method, "residual")
    rows, arguments = Dataset.from_list(PAIRED), settings(trl.DPOConfig, tmp_path)
    trainer = trl.DPOTrainer(model=wrapped, args=arguments, train_dataset=rows, processing_class=tokenizer)
    assert logged(trainer, "loss") == pytest.approx([math.log(2)], abs=SAME)


@pytest.mark.parametrize("method", COPIED)
def test_the_copy_that_all_of_them_make_is_the_policy_to_the_bit(kit, method):
    """DPO, GRPO, KTO and RLOO add an adapter of the same configuration and copy parameters by name."""
    wrapped, before = policy(kit, method)
    wrapped.add_adapter("ref", wrapped.peft_config["default"])
    for name, parameter in list(wrapped.named_parameters()):
        if ".default." in name:
            wrapped.get_parameter(name.replace(".default.", ".ref.")).data.copy_(parameter.data)
    kit.train(wrapped, steps=2)
    with trl.trainer.utils.use_adapter(wrapped, "ref"):
        assert torch.equal(kit.logits(wrapped, kit.tokens()), before)
    assert (kit.logits(wrapped, kit.tokens()) - before).abs().max() > 1e-3
    wrapped.delete_adapter("ref")
    assert list(wrapped.peft_config) == ["default"]


@pytest.mark.case("the reference of a preference training is not the model it started from")
@pytest.mark.parametrize("method", COPIED)
def test_the_divergence_of_kto_begins_at_zero(kit, tokenizer, tmp_path, method):
    wrapped, _ = policy(kit, method)
    rows = [{"prompt": row["prompt"], "completion": row["chosen"], "label": i % 2 == 0} for i, row in enumerate(PAIRED)]
    arguments = settings(trl.KTOConfig, tmp_path)
    trainer = trl.KTOTrainer(
        model=wrapped, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    assert logged(trainer, "kl", "loss") == pytest.approx([0, 0.5], abs=SAME)


@pytest.mark.case("the reference of a preference training is not the model it started from")
@pytest.mark.parametrize("method", COPIED)
@pytest.mark.parametrize("kind", ["GRPO", "RLOO"])
def test_the_divergence_of_grpo_and_rloo_begins_at_zero(kit, tokenizer, tmp_path, kind, method):
    wrapped, _ = policy(kit, method)
    arguments = settings(getattr(trl, f"{kind}Config"), tmp_path, num_generations=2, max_completion_length=4, beta=0.1)
    trainer = getattr(trl, f"{kind}Trainer")(
        model=wrapped,
        args=arguments,
        reward_funcs=lambda completions, **_: [float(len(text)) for text in completions],
        train_dataset=Dataset.from_list([{"prompt": row["prompt"]} for row in PAIRED]),
        processing_class=tokenizer,
    )
    assert logged(trainer, "kl") == pytest.approx([0], abs=SAME)


@pytest.mark.case("a checkpoint in plain PEFT is not the trained model")
@pytest.mark.parametrize("method", COPIED)
def test_what_dpo_saves_is_the_trained_model_to_plain_peft_and_to_us(kit, tokenizer, tmp_path, method):
    original = kit.models["llama"]()
    wrapped, before = policy(kit, method)
    saving = {"learning_rate": 1e-2, "save_strategy": "steps", "save_steps": 1}
    arguments, rows = settings(trl.DPOConfig, tmp_path, **saving), Dataset.from_list(PAIRED)
    trainer = trl.DPOTrainer(model=wrapped, args=arguments, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    expected = kit.logits(wrapped, kit.tokens())
    assert (expected - before).abs().max() > 1e-3
    for folder in ("checkpoint-1", "model"):
        plain = PeftModel.from_pretrained(copy.deepcopy(original), str(tmp_path / folder), adapter_name="renamed")
        torch.testing.assert_close(kit.logits(plain, kit.tokens()), expected, atol=1e-4, rtol=0)
        ours = load_adapter(copy.deepcopy(original), tmp_path / folder)
        torch.testing.assert_close(kit.logits(ours, kit.tokens()), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["DPO", "KTO", "GRPO", "RLOO"])
def test_adalora_says_why_it_takes_no_reference(kit, tokenizer, tmp_path, kind):
    wrapped, _ = policy(kit, "adalora")
    more = {} if kind in ("DPO", "KTO") else {"beta": 0.1, "num_generations": 2}
    rewards = {"reward_funcs": lambda completions, **_: [0.0 for _ in completions]} if more else {}
    rows = PAIRED if kind == "DPO" else [{"prompt": "w1", "completion": " w2", "label": i % 2 == 0} for i in range(4)]
    arguments = settings(getattr(trl, f"{kind}Config"), tmp_path, **more)
    data = {"train_dataset": Dataset.from_list(rows), "processing_class": tokenizer} | rewards
    with pytest.raises(AdapterError, match="no second adapter"):
        getattr(trl, f"{kind}Trainer")(model=wrapped, args=arguments, **data)
    assert list(wrapped.peft_config) == ["default"]
