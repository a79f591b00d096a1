"""Classification heads: which modules they are, and what loading one takes and refuses."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.classifiers import FAMILIES, PAD, labelled, tiny_classifier

from farss.config import ModelConfig
from farss.errors import ConfigError, ModelError
from farss.model import packages, sources
from farss.model.classification import encode_texts, labelled_batches
from farss.model.heads import head_modules, head_parameters, load_classifier
from farss.model.packages import KNOWN_MODELS

HEADS = {"bert": ("bert.pooler", "classifier"), "roberta": ("classifier",), "mpnet": ("classifier",)}


@pytest.fixture
def folder(tmp_path, tiny_tokenizer):
    """A checkpoint of an encoder alone, as pre-training leaves it, with a tokenizer of 100 characters."""
    from transformers import BertConfig, BertModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(tiny_tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=80,
            pad_token_id=0,
        )
        BertModel(config).save_pretrained(tmp_path / "encoder")
    tiny_tokenizer.save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_is_what_comes_after_the_blocks(family):
    model = tiny_classifier(family)
    assert head_modules(model) == HEADS[family]
    names = set(head_parameters(model))
    rest = {name for name, _ in model.named_parameters()} - names
    assert names and all("classifier" in name or "pooler" in name for name in names)
    assert all(".encoder." in name or ".embeddings." in name for name in rest)


def test_a_model_without_a_head_is_refused(tiny_llama):
    with pytest.raises(ModelError, match="no classification head"):
        head_modules(tiny_llama.model)


def test_an_encoder_gets_a_head_drawn_from_the_seed(folder):
    before = torch.get_rng_state()
    config = ModelConfig(name=str(folder))
    first, again, other = (load_classifier(config, 3, seed=seed).model for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.classifier.weight.shape == (3, 32) and not first.training
    assert torch.equal(first.classifier.weight, again.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    stored = load_file(folder / "model.safetensors")
    assert torch.equal(first.bert.pooler.dense.weight, stored["pooler.dense.weight"])
    assert all(torch.equal(first.bert.get_parameter(name), tensor) for name, tensor in stored.items())
    assert load_classifier(config, 1).model.config.problem_type in (None, "regression")


def test_a_checkpoint_that_lacks_a_weight_of_the_encoder_is_refused(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lacks weights of the encoder") as caught:
        load_classifier(ModelConfig(name=str(folder)), 2)
    assert "layer.1.output.dense" in str(caught.value)


def test_a_tokenizer_without_padding_is_refused(folder, tiny_tokenizer):
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "pad_token"}))
    with pytest.raises(ModelError, match="no padding token"):
        load_classifier(ModelConfig(name=str(folder)), 2)


def test_an_encoder_is_no_language_model():
    with pytest.raises(ModelError, match="encoder and writes no text") as caught:
        sources.load(ModelConfig(name="minilm-l6"))
    assert "farss glue" in str(caught.value)


def test_a_packaged_checkpoint_is_used_where_it_lies_if_it_is_the_right_one(folder, monkeypatch):
    monkeypatch.setattr(sources, "require_package_files", lambda name: [folder / "model.safetensors"])
    with pytest.raises(ModelError, match="damaged or another version"):
        sources.resolve("minilm-l6")
    monkeypatch.setattr("farss.model.conversion.noted_digest", lambda files, note: KNOWN_MODELS["minilm-l6"].sha256)
    assert sources.resolve("minilm-l6") == folder


@pytest.mark.slow
@pytest.mark.skipif(packages.package_files(KNOWN_MODELS["minilm-l6"]) is None, reason="its package is not installed")
def test_the_packaged_encoder_is_loaded_and_tells_texts_apart():
    loaded = load_classifier(ModelConfig(name="minilm-l6"), 2)
    encoder = sum(p.numel() for name, p in loaded.model.named_parameters() if not name.startswith("classifier"))
    assert encoder == KNOWN_MODELS["minilm-l6"].parameters
    texts = [("A cat sits on the mat.",), ("A kitten is sitting on a rug.",), ("The bank raised interest rates.",)]
    (batch,) = labelled_batches(
        encode_texts(texts, [0, 0, 1], loaded.tokenizer, 128), batch_tokens=999, pad_id=loaded.tokenizer.pad_token_id,
        sort=False,
    )  # fmt: skip
    with torch.no_grad():
        states = loaded.model.bert(**batch.inputs).last_hidden_state
    weights = batch.attention_mask[..., None]
    mean = torch.nn.functional.normalize((states * weights).sum(1) / weights.sum(1), dim=-1)
    likeness = mean @ mean.T
    assert likeness[0, 1] > likeness[0, 2] + 0.3


def test_texts_are_encoded_in_pairs_and_cut_to_length(tiny_tokenizer):
    (untyped,) = encode_texts([("abc",)], [1], tiny_tokenizer, 16)
    assert untyped.segments == ()
    tiny_tokenizer = copy.deepcopy(tiny_tokenizer)
    tiny_tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    (single,) = encode_texts([("abc",)], [1], tiny_tokenizer, 16)
    assert len(single) == 3 and single.label == 1
    (pair,) = encode_texts([("abcdefgh", "xy")], [0.5], tiny_tokenizer, 6)
    assert len(pair) == 6 and set(pair.segments) == {0, 1} and pair.label == 0.5
    assert tiny_tokenizer.decode(list(pair.ids)) == "abcdxy"  # the longer one loses its end
    tiny_tokenizer.model_max_length = 12
    with pytest.raises(ConfigError, match="max_length is more than the model reads"):
        encode_texts([("abc",)], [1], tiny_tokenizer, 16)


@pytest.mark.parametrize("family", FAMILIES)
def test_masked_positions_do_not_matter(family):
    """Whatever stands at padded positions, and however many there are, the logits are those of the text alone."""
    model, examples = tiny_classifier(family).double(), labelled(segments=family == "bert")
    (batch,) = labelled_batches(examples, batch_tokens=9999, pad_id=PAD, pad_to=32, sort=False)
    with torch.no_grad():
        together = model(**batch.inputs).logits
        alone = [labelled_batches([e], batch_tokens=99, pad_id=PAD)[0] for e in examples]
        apart = torch.cat([model(**one.inputs).logits for one in alone])
    assert not bool(batch.attention_mask.all())
    torch.testing.assert_close(together, apart, rtol=1e-10, atol=1e-10)
    if family == "bert":  # the others number positions by the padding token, so it has to be that
        batch.input_ids[batch.attention_mask == 0] = 7
        with torch.no_grad():
            torch.testing.assert_close(model(**batch.inputs).logits, apart, rtol=1e-10, atol=1e-10)
