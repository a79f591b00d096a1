"""What a folder holds is known by what it says of itself: language models are loaded whole, others refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers
from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM

from farss.errors import ModelError
from farss.model.kinds import language_class

WHERE = Path("somewhere")


def config_of(kind: str, *architectures: str, **settings):
    config = transformers.CONFIG_MAPPING[kind](**settings)
    config.architectures = list(architectures) or None
    return config


@pytest.mark.case("a model that does not write text is refused by what it is")
@pytest.mark.parametrize(
    ("kind", "architecture", "message"),
    [
        ("bert", "BertForMaskedLM", "is an encoder"),
        ("bert", "BertModel", "is an encoder"),
        ("roberta", "RobertaForMaskedLM", "is an encoder"),
        ("deberta-v2", "DebertaV2Model", "is an encoder"),
        ("modernbert", "ModernBertForMaskedLM", "is an encoder"),
        ("distilbert", "DistilBertForSequenceClassification", "is an encoder"),
        ("t5", "T5ForConditionalGeneration", "writes from an encoder"),
        ("bart", "BartForConditionalGeneration", "writes from an encoder"),
        ("whisper", "WhisperForConditionalGeneration", "writes from an encoder"),
        ("vit", "ViTForImageClassification", "no causal language model"),
        ("clip", "CLIPModel", "no causal language model"),
        ("wav2vec2", "Wav2Vec2ForCTC", "no causal language model"),
        ("llama", "LlamaForSequenceClassification", "no causal language model"),
        ("qwen3", "Qwen3ForTokenClassification", "no causal language model"),
    ],
)
def test_what_writes_no_text_is_refused(kind, architecture, message):
    with pytest.raises(ModelError, match=message) as caught:
        language_class(config_of(kind, architecture), WHERE)
    assert architecture in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 5


def test_an_encoder_of_texts_is_sent_to_glue_and_one_of_images_is_not():
    for kind, sent in (("bert", True), ("t5", True), ("vit", False), ("clip", False)):
        with pytest.raises(ModelError) as caught:
            language_class(config_of(kind), WHERE)
        assert ("farss glue" in str(caught.value)) == sent


@pytest.mark.parametrize(
    ("kind", "architectures", "by"),
    [
        ("llama", ["LlamaForCausalLM"], AutoModelForCausalLM),
        ("llama", ["LLaMAForCausalLM"], AutoModelForCausalLM),  # as the first conversions were called
        ("llama", [], AutoModelForCausalLM),
        ("gpt2", ["GPT2LMHeadModel"], AutoModelForCausalLM),
        ("mamba", ["MambaForCausalLM"], AutoModelForCausalLM),
        ("modernbert-decoder", ["ModernBertDecoderForCausalLM"], AutoModelForCausalLM),
        ("gemma3_text", ["Gemma3ForCausalLM"], AutoModelForCausalLM),
        ("qwen3_5", ["Qwen3_5ForConditionalGeneration"], AutoModelForMultimodalLM),
        ("qwen3_5", ["Qwen3_5ForCausalLM"], AutoModelForCausalLM),
        ("llava", ["LlavaForConditionalGeneration"], AutoModelForMultimodalLM),
    ],
)
def test_a_language_model_is_loaded_by_the_class_it_was_saved_by(kind, architectures, by):
    assert language_class(config_of(kind, *architectures), WHERE) is by


def test_an_encoder_turned_into_a_decoder_writes_text():
    assert language_class(config_of("bert", "BertLMHeadModel", is_decoder=True), WHERE) is AutoModelForCausalLM


def test_code_of_its_own_decides_only_where_it_is_trusted():
    config = config_of("bert", "BertForMaskedLM")
    config.auto_map = {"AutoModelForCausalLM": "modeling_own.Own"}
    assert language_class(config, WHERE, trust_remote_code=True) is AutoModelForCausalLM
    with pytest.raises(ModelError, match="is an encoder"):
        language_class(config, WHERE)
