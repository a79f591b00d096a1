"""Adapters on classifiers: the start, what training leaves alone, and what stock PEFT makes of the files."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.classifiers import FAMILIES, PAD, labelled, tiny_classifier

from farss.adapters.apply import apply
from farss.adapters.classifier import check_apart, check_encoder, encoder_hashes, export_classifier
from farss.adapters.verify import logits, max_difference
from farss.config import FarssConfig, HeadConfig, TrainConfig
from farss.errors import NumericalError, PlanError
from farss.experiment.initialisation.planning import prepare
from farss.methods import get_method
from farss.model.classification import labelled_batches
from farss.model.heads import head_parameters
from farss.model.spectra import SpectrumCache
from farss.storage import read_tensors, write_tensors
from farss.training.head import release_head_, warm_up_head_
from farss.training.sft import train
from farss.training.tasks import Classification

CONFIG = FarssConfig(rank=4, shallow_layers=1, r_avg=2, r_max=3)
TRAIN = TrainConfig(learning_rate=1e-2, epochs=3, batch_size=4, dropout=0.0, precision="float32")
DATA_FREE_ATOL = 1e-5


class Tokens:
    """As much of a tokenizer as training asks for."""

    pad_token_id, eos_token_id = PAD, None


def adapted(family: str, method: str, **settings):
    """The base's logits, the PEFT model with its head released, and the batch that both read."""
    model, examples = tiny_classifier(family), labelled(12, segments=family == "bert")
    queue = labelled_batches(examples, batch_tokens=99, pad_id=PAD)
    config = FarssConfig.from_mapping({**CONFIG.to_mapping(), **settings})
    plan = prepare(model, queue, config, [method], spectra=SpectrumCache(None)).plans[method]
    before = logits(model, queue[0].inputs)
    wrapped = apply(model, plan)
    release_head_(wrapped)
    return before, wrapped, queue[0], examples


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["lora", "pissa", "farss"])
def test_the_start_is_the_base_and_training_moves_adapter_and_head_only(family, method, tmp_path):
    before, model, batch, examples = adapted(family, method)
    assert max_difference(before, logits(model, batch.inputs)) < DATA_FREE_ATOL
    hashes = encoder_hashes(model)
    head = {name: p.detach().clone() for name, p in head_parameters(model.get_base_model()).items()}
    report = train(model, Tokens(), examples, TRAIN, None, task=Classification())
    assert report.steps == 9 and report.curve[-1][1] < report.curve[0][1]
    check_encoder(model, hashes)
    assert max_difference(before, logits(model, batch.inputs)) > 0.1
    trained = head_parameters(model.get_base_model())
    assert all(not torch.equal(head[name], trained[name]) for name in head)
    export_classifier(model, tmp_path / "adapter")
    assert max_difference(logits(model, batch.inputs), by_stock_peft(family, tmp_path / "adapter", batch)) < 1e-4


def by_stock_peft(family, folder, batch):
    """What PEFT makes of the folder on a base with another head, as a user has it."""
    from peft import PeftModel, PeftModelForSequenceClassification

    base, other = tiny_classifier(family), tiny_classifier(family, seed=5)
    strange = dict(head_parameters(other))
    for name, parameter in head_parameters(base).items():
        parameter.data.copy_(strange[name])
    loaded = PeftModel.from_pretrained(base, str(folder))
    assert isinstance(loaded, PeftModelForSequenceClassification)
    return logits(loaded, batch.inputs)


@pytest.mark.parametrize("method", ["dora", "milora", "corda-ipm", "eva", "lora-ga", "fora", "adalora", "kasa"])
def test_other_methods_train_on_classifiers_and_are_exported(method, tmp_path):
    before, model, batch, examples = adapted("bert", method)
    if get_method(method).name != "kasa":
        assert max_difference(before, logits(model, batch.inputs)) < DATA_FREE_ATOL
    hashes = encoder_hashes(model)
    report = train(model, Tokens(), examples, TRAIN, None, task=Classification())
    assert report.curve[-1][1] < report.curve[0][1]
    check_encoder(model, hashes)
    export_classifier(model, tmp_path / "adapter")
    assert max_difference(logits(model, batch.inputs), by_stock_peft("bert", tmp_path / "adapter", batch)) < 1e-4


def test_weights_of_the_encoder_that_changed_are_named():
    _, model, _, _ = adapted("bert", "lora")
    hashes = encoder_hashes(model)
    assert not any("classifier" in name or "pooler" in name for name in hashes)
    model.get_base_model().bert.encoder.layer[1].output.dense.base_layer.weight.data[0, 0] += 1e-7
    with pytest.raises(NumericalError, match="training changed weights of the encoder") as caught:
        check_encoder(model, hashes)
    assert "bert.encoder.layer.1.output.dense.weight" in str(caught.value)


def test_the_residual_form_changes_the_encoder_and_is_exported_on_the_original(tmp_path):
    original = encoder_hashes(tiny_classifier("roberta"))
    before, model, batch, examples = adapted("roberta", "pissa", base="residual")
    assert max_difference(before, logits(model, batch.inputs)) < 1e-4
    with pytest.raises(NumericalError, match="changed weights"):
        check_encoder(model, original)
    train(model, Tokens(), examples, TRAIN, None, task=Classification())
    export_classifier(model, tmp_path / "adapter")
    assert max_difference(logits(model, batch.inputs), by_stock_peft("roberta", tmp_path / "adapter", batch)) < 1e-3


def test_a_head_that_is_not_what_was_trained_is_not_kept(tmp_path, monkeypatch):
    _, model, _, _ = adapted("bert", "lora")

    def spoiled(path, tensors, metadata=None):
        tensors = {name: 2 * t if "classifier.weight" in name else t for name, t in tensors.items()}
        write_tensors(path, tensors, metadata)

    monkeypatch.setattr("farss.adapters.classifier.write_tensors", spoiled)
    with pytest.raises(NumericalError, match="do not reproduce"):
        export_classifier(model, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_the_head_is_in_the_files_under_the_names_of_the_base(tmp_path):
    _, model, _, _ = adapted("bert", "lora")
    export_classifier(model, tmp_path / "adapter")
    tensors, _ = read_tensors(tmp_path / "adapter" / "adapter_model.safetensors")
    head = sorted(name for name in tensors if "lora_" not in name)
    assert head == [
        "base_model.model.bert.pooler.dense.bias",
        "base_model.model.bert.pooler.dense.weight",
        "base_model.model.classifier.bias",
        "base_model.model.classifier.weight",
    ]


def test_a_module_of_the_head_is_not_adapted():
    model = tiny_classifier("bert")
    queue = labelled_batches(labelled(), batch_tokens=99, pad_id=PAD)
    config = FarssConfig(rank=2, targets=("dense",))
    plan = prepare(model, queue, config, ["lora"], spectra=SpectrumCache(None)).plans["lora"]
    with pytest.raises(PlanError, match="module of the head is to be adapted"):
        check_apart(model, plan)


def test_only_the_head_is_warmed_up_and_what_separates_the_classes_is_found():
    model, examples = tiny_classifier("bert"), labelled(24)
    before, hashes = copy.deepcopy(model.state_dict()), encoder_hashes(model)
    assert warm_up_head_(model, examples, HeadConfig(warmup_steps=0), pad_id=PAD) == []
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    state = torch.get_rng_state()
    curve = warm_up_head_(model, examples, HeadConfig(warmup_steps=60, warmup_rate=1e-2), pad_id=PAD)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(curve) == 60 and curve[-1] < 0.8 * curve[0]
    check_encoder(model, hashes)
    assert not torch.equal(before["classifier.weight"], model.classifier.weight)
    assert all(p.requires_grad and p.grad is None for p in model.parameters()) and not model.training
    model.classifier.bias.data[0] = float("nan")
    with pytest.raises(NumericalError, match="loss is not finite"):
        warm_up_head_(model, examples, HeadConfig(), pad_id=PAD)


@pytest.mark.parametrize("classes", [3, 1])
def test_a_step_is_the_mean_over_its_texts_however_it_is_split(classes):
    curves = []
    for micro in (1, 2, 8):
        model = tiny_classifier("roberta", classes)
        config = TrainConfig(
            learning_rate=1e-3, epochs=1, batch_size=8, micro_batch_size=micro, dropout=0.0, precision="float32"
        )
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            setattr(model.config, name, 0.0)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        found = train(
            model, Tokens(), labelled(16, classes=classes), config, None, task=Classification(), trains="weights"
        )
        curves.append([loss for _, loss in found.curve])
    assert curves[0] == pytest.approx(curves[1], rel=1e-4) and curves[0] == pytest.approx(curves[2], rel=1e-4)
