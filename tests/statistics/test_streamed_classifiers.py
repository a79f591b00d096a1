"""Encoders with a classification head are chains of blocks too: the walk gives what the pass in memory gives."""

from __future__ import annotations

import pytest
import torch
from tests.classifiers import PAD, VOCABULARY, labelled

from farss.config import FarssConfig, ModelConfig
from farss.experiment.initialisation.planning import prepare
from farss.experiment.initialisation.streaming import StreamedModel
from farss.methods import get_method
from farss.model.blocks import NotAChain
from farss.model.classification import labelled_batches
from farss.model.spectra import SpectrumCache
from farss.model.targets import find_targets, weight_matrix
from farss.statistics.curvature import collect
from farss.statistics.streamed import Walk

FAMILIES = ("bert", "roberta", "mpnet", "electra", "distilbert", "deberta-v2", "modernbert")
ODD_SIZES = {
    "distilbert": {"dim": 32, "hidden_dim": 48, "n_layers": 3, "n_heads": 4},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "max_relative_positions": 20},
    "modernbert": {"cls_token_id": 3, "sep_token_id": 2, "bos_token_id": 3, "eos_token_id": 2, "local_attention": 8},
}


def classifier(family, classes=3):
    """A float64 sequence classifier of three layers, 32 wide."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    if family == "distilbert":
        sizes = {}
    config = AutoConfig.for_model(
        family,
        vocab_size=VOCABULARY,
        pad_token_id=PAD,
        num_labels=classes,
        max_position_embeddings=80,
        initializer_range=0.2,
        **sizes,
        **ODD_SIZES.get(family, {}),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForSequenceClassification.from_config(config).double().eval()


def targets_of(model):
    """All but DeBERTa's projections of relative positions, which do not see one row per token."""
    return find_targets(model, exclude=[r".*\.pos_\w+"] if model.config.model_type == "deberta-v2" else [])


def queue_of(classes=3, segments=False):
    return labelled_batches(labelled(9, classes=classes, segments=segments), batch_tokens=60, pad_id=PAD)


class Kept:
    """Keeps what a walk delivers, with the weights it was delivered beside."""

    def __init__(self, targets):
        self.targets, self.pairs = targets, {}

    def has(self, index):
        return False

    def receive(self, index, parts):
        (curvature,) = parts
        for target in self.targets:
            if target.layer == index:
                self.pairs[target.name] = curvature.pair(target.name, weight_matrix(target))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("classes", [3, 1], ids=["classes", "regression"])
def test_the_moments_are_those_of_the_resident_pass(family, classes):
    model = classifier(family, classes)
    queue, targets = queue_of(classes, segments=family == "bert"), targets_of(model)
    kept = Kept(targets)
    Walk(model, None, targets, queue).run(kept)
    resident = collect(model, queue, targets)
    assert set(kept.pairs) == {target.name for target in targets}
    for target in targets:
        for mine, other in zip(kept.pairs[target.name], resident.pair(target), strict=True):
            assert float((mine - other).norm()) <= 1e-9 * float(other.norm()), target.name
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("settings", [{"tokens": "response"}, {"fisher": "sampled", "seed": 3}], ids=str)
def test_under_other_settings(settings):
    model = classifier("bert")
    queue, targets = queue_of(), find_targets(model)
    kept = Kept(targets)
    Walk(model, None, targets, queue, **settings).run(kept)
    resident = collect(model, queue, targets, **settings)
    for target in targets:
        for mine, other in zip(kept.pairs[target.name], resident.pair(target), strict=True):
            assert float((mine - other).norm()) <= 1e-9 * float(other.norm()), target.name


def test_a_block_that_serves_several_layers_is_no_chain():
    """ALBERT calls one block for all its layers."""
    model = classifier("albert")
    with pytest.raises(NotAChain):
        Walk(model, None, find_targets(model), queue_of()).run(Kept([]))


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_a_classifier_on_disk_gets_the_plan_of_one_in_memory(family, tiny_tokenizer, tmp_path):
    model = classifier(family)
    model.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    config = FarssConfig(rank=8, r_min=1, r_avg=4, r_max=6, shallow_layers=1)
    queue, data = queue_of(), {"rows": 9}
    whole = prepare(model, queue, config, ["farss"], data=data, spectra=SpectrumCache(tmp_path / "one")).plans["farss"]
    source = StreamedModel(ModelConfig(name=str(tmp_path / "model")), classifier=True)
    evidence = source.evidence("farss", queue, config, SpectrumCache(tmp_path / "another"), data=data)
    assert all(parameter.is_meta for parameter in source.model.parameters())
    streamed = get_method("farss").plan(source.targets(config), evidence, config)
    assert [(t.name, t.rank, t.indices) for t in streamed.targets] == [
        (t.name, t.rank, t.indices) for t in whole.targets
    ]
