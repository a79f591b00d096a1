from __future__ import annotations

import copy

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerFast

from farss.adapters.apply import apply
from farss.adapters.export import export
from farss.adapters.files import load_adapter
from farss.config import FarssConfig
from farss.experiment.initialisation.planning import plan as make_plan
from farss.maths.spectrum import decompose
from farss.methods import METHODS, Evidence, get_method
from farss.methods.kasa.settings import KasaConfig
from farss.model.calibration import Batch
from farss.model.sources import fingerprint
from farss.model.targets import find_targets, weight_matrix
from farss.training.elsewhere import callbacks_for

trl = pytest.importorskip("trl")


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<pad>", "<eos>", "<unk>", *(f"w{i}" for i in range(61))]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def trainer(model, tokenizer, folder, steps, callbacks=None):
    rows = [{"prompt": f"w{i} w{i + 1}", "completion": f" w{i + 2} w{i + 3} w{i + 4}"} for i in range(16)]
    settings = trl.SFTConfig(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        save_steps=1,
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=True,
        disable_tqdm=True,
        max_length=32,
    )
    return trl.SFTTrainer(
        model=model,
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=callbacks,
    )


def test_what_a_method_adds_to_training_is_there_in_sft_trainer(llama, tmp_path, tokenizer):
    def sizes(added: bool) -> float:
        evidence = Evidence(fingerprint(llama), lambda target: decompose(weight_matrix(target)))
        settings = KasaConfig(drop="nothing", beta=50.0)
        model = copy.deepcopy(llama)
        plan = get_method("kasa").plan(find_targets(model), evidence, FarssConfig(rank=3, own=(settings,)))
        wrapped = apply(model, plan)
        trainer(wrapped, tokenizer, tmp_path / str(added), 3, callbacks_for(wrapped) if added else None).train()
        gates = [part for name, part in wrapped.named_parameters() if name.endswith(".gate")]
        return sum(float(part.detach().square().sum()) for part in gates)

    assert sizes(True) < 0.99 * sizes(False)


def test_sft_trainer_trains_saves_and_its_checkpoint_exports(llama, kit, tmp_path, tokenizer):
    base, ids = copy.deepcopy(llama), kit.tokens()
    before = kit.logits(base, ids)
    wrapped = apply(llama, kit.plan(llama), dropout=0.1)
    reference = {n: p.clone() for n, p in wrapped.named_parameters() if n.endswith(".start")}
    trainer(wrapped, tokenizer, tmp_path / "run", steps=2).train()
    trained = kit.logits(wrapped, ids)
    assert (trained - before).abs().max() > 1e-2
    assert all(torch.equal(dict(wrapped.named_parameters())[n], p) for n, p in reference.items())
    loaded = load_adapter(copy.deepcopy(base), tmp_path / "run" / "checkpoint-2")
    torch.testing.assert_close(kit.logits(loaded, ids), trained, atol=1e-5, rtol=0)
    export(wrapped, tmp_path / "out", base=base)


@pytest.mark.case("a checkpoint in plain PEFT is not the trained model")
@pytest.mark.parametrize("method", sorted(name for name in METHODS if METHODS[name].trains == "adapter"))
def test_a_checkpoint_of_every_method_is_the_trained_model_to_plain_peft(llama, kit, tmp_path, tokenizer, method):
    base, ids = copy.deepcopy(llama), kit.tokens(1, (6, 16))
    rows = [Batch(ids, torch.ones_like(ids), ids)]
    plan = make_plan(llama, rows, FarssConfig(rank=4, alpha=4.0, r_avg=2, r_max=4), method=method, knowledge=rows)
    wrapped = apply(llama, plan)
    trainer(wrapped, tokenizer, tmp_path / "run", steps=2).train()
    trained = kit.logits(wrapped, ids)
    plain = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path / "run" / "checkpoint-2"))
    torch.testing.assert_close(kit.logits(plain, ids), trained, atol=1e-4, rtol=0)
    assert (trained - kit.logits(base, ids)).abs().max() > 1e-3


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(llama, kit, tmp_path, tokenizer):
    ids, results = kit.tokens(), []
    plan = kit.plan(llama)
    for steps in ((2,), (1, 2)):
        for target in steps:
            torch.manual_seed(0)
            wrapped = apply(copy.deepcopy(llama), plan)
            folder = tmp_path / str(len(steps))
            resumed = str(folder / "checkpoint-1") if target == 2 and len(steps) == 2 else None
            trainer(wrapped, tokenizer, folder, target).train(resume_from_checkpoint=resumed)
        results.append(kit.logits(wrapped, ids))
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=0)
